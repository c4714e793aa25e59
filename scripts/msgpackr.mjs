/**
 * Makes src/msgpackr/*.js, and the same in dist/, from the installed msgpackr: its pack.js and unpack.js with the changes listed below.
 * A change that doesn't match as often as it says fails the build; so does any other version than the one that package.json names.
 * How to take a new version: docs/dependencies.md.
 */
import { mkdirSync, readFileSync, realpathSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/**
 * Changes of pack.js, applied in this order. `find` is a string or a regular expression with the flag g; `replace` is what
 * String.replaceAll takes; `times` is how often `find` must match in what the changes before it have left.
 *
 * @typedef {{ name: string, why: string, find: string | RegExp, replace: string, times: number }} Change
 * @type {Change[]}
 */
const PACK = [
  {
    name: 'the end of a shape is noted under a name that is no key',
    why: 'msgpackr keeps shapes in a tree that branches by key; an object with the key __keys__ was taken for another.',
    find: '.__keys__',
    replace: '[KEYS]',
    times: 8
  },
  {
    name: 'nodes of the tree of shapes are small',
    why: 'An object made by Object.create(null) takes six times as much memory.',
    find: 'Object.create(null)',
    replace: 'new Node()',
    times: 8
  },
  {
    name: 'what both need is declared',
    why: 'A Node must inherit nothing, as its properties are keys of a program.',
    find: 'let textEncoder;\n',
    replace: "const KEYS = Symbol('keys');\nfunction Node() {}\nNode.prototype = Object.create(null);\n$&",
    times: 1
  },
  {
    name: 'the ring of shapes to be forgotten is a property',
    why: 'It is a local of each Packr; as a property it can be exchanged, so that one Packr serves the tables of all channels.',
    find: 'let recordIdsToRemove = [];',
    replace: 'this.recordIds = [];',
    times: 1
  },
  {
    name: 'the ring of shapes to be forgotten is used as a property',
    why: 'See the change before.',
    find: /\brecordIdsToRemove\b/g,
    replace: 'packr.recordIds',
    times: 19
  },
  {
    name: 'pack.js exports all that passfd uses',
    why: 'src/msgpackr/pack.d.ts declares it as one module.',
    find: "export { FLOAT32_OPTIONS } from './unpack.js';",
    replace: "export { Unpackr } from './unpack.js';",
    times: 1
  }
]

/** Changes of unpack.js. @type {Change[]} */
const UNPACK = [
  {
    name: 'the byte c1 is an error',
    why: 'msgpack does not use it; msgpackr decoded it to an object of its own that stands for it.',
    find: 'return C1;',
    replace: 'throw new Error("it holds the byte c1, which msgpack does not use");',
    times: 1
  },
  {
    name: 'the source is a Buffer',
    why: 'To ask for its `buffer` is a call of the runtime.',
    find: '!source.buffer && source.constructor',
    replace: 'source.constructor',
    times: 1
  },
  {
    name: 'an extension of one byte may be read as a number',
    why: "A view of one byte takes longer to make than all the rest of reading a descriptor's index.",
    find: 'extension(src.subarray(position, ++position))',
    replace: 'extension(extension.oneByte ? src[position++] : src.subarray(position, ++position))',
    times: 1
  },
  {
    name: 'a defined shape is looked up among those that are known',
    why: 'Readers are kept by shape instead of by channel, and ids of two bytes are refused. `shapeOf` is an option of each Unpackr.',
    find: 'let existingStructure = currentStructures[id];',
    replace: 'structure = currentUnpackr.shapeOf(structure, highByte);\n\t$&',
    times: 1
  },
  {
    name: 'a shape that has a reader keeps it',
    why: 'It may have been compiled for another channel.',
    find: 'structure.read = createStructureReader(structure, firstByte)',
    replace: 'structure.read ||= createStructureReader(structure, firstByte)',
    times: 1
  },
  {
    name: 'a string that is not short and ASCII is read by Node',
    why: 'That takes 65 ns whatever it holds; msgpackr collects its characters in an array. It keeps a byte order mark, which a TextDecoder drops.',
    find: /if \(length > 64 && decoder\)\n\s*return decoder\.decode\(src\.subarray\(position, position \+= length\)\);\n[\s\S]*?\n\}/g,
    replace: "return src.toString('utf8', position, position += length);\n}",
    times: 1
  },
  {
    name: 'no TextDecoder is made',
    why: 'See the change before.',
    find: /var decoder;\ntry \{\n\tdecoder = new TextDecoder\(\);\n\} catch\(error\) \{\}\n/g,
    replace: '',
    times: 1
  },
  {
    name: 'keys are cached wherever they stand',
    why: 'Behind byte 180 msgpackr left that to its native part, which passfd has not.',
    find: /\t\telse if \(!\(srcStringEnd == 0 && srcEnd < 180\)\)\n\t\t\treturn readFixedString\(length\);\n/g,
    replace: '',
    times: 1
  }
]

export const changes = { 'pack.js': PACK, 'unpack.js': UNPACK }

/** `source` with all changes. Throws if one of them doesn't match as often as it must. */
export function change(source, list, file) {
  for (const { name, find, replace, times } of list) {
    const matches = typeof find === 'string' ? source.split(find).length - 1 : [...source.matchAll(find)].length
    if (matches !== times) {
      throw new Error(
        `msgpackr's ${file} can't be changed: "${name}" matches ${matches} times instead of ${times}. Compare ${find} in scripts/msgpackr.mjs with the new source; see docs/dependencies.md.`
      )
    }
    source = source.replaceAll(find, replace)
  }
  return source
}

/** What to write, by file name, from the package in the folder `from`. */
export function changed(from, expectedVersion) {
  const read = name => readFileSync(new URL(name, from), 'utf8')
  const { version } = JSON.parse(read('package.json'))
  if (version !== expectedVersion) {
    throw new Error(
      `msgpackr ${version} is installed, but package.json must name an exact version and names ${expectedVersion}; run npm ci, or see docs/dependencies.md.`
    )
  }
  const head = `// msgpackr ${version}, changed by scripts/msgpackr.mjs of passfd. Its licence (MIT) is in the file LICENSE beside this one.\n`
  return {
    'pack.js': head + change(read('pack.js'), PACK, 'pack.js'),
    'unpack.js': head + change(read('unpack.js'), UNPACK, 'unpack.js'),
    LICENSE: read('LICENSE')
  }
}

function write(folder, files) {
  mkdirSync(folder, { recursive: true })
  for (const [name, content] of Object.entries(files)) {
    const file = new URL(name, folder)
    try {
      if (readFileSync(file, 'utf8') === content) continue // who watches or imports it at the moment isn't disturbed
    } catch (error) {
      if (error.code !== 'ENOENT') throw error
    }
    writeFileSync(file, content)
  }
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  try {
    const root = new URL('../', import.meta.url)
    const { devDependencies } = JSON.parse(readFileSync(new URL('package.json', root), 'utf8'))
    const files = changed(new URL('.', import.meta.resolve('msgpackr')), devDependencies.msgpackr)
    write(new URL('src/msgpackr/', root), files)
    const declarations = readFileSync(new URL('src/msgpackr/pack.d.ts', root), 'utf8')
    write(new URL('dist/msgpackr/', root), { ...files, 'pack.d.ts': declarations })
  } catch (error) {
    console.error(error.message)
    process.exitCode = 1
  }
}
