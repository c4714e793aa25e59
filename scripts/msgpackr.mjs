/**
 * Makes src/codec/msgpackr/*.js, and the same in dist/, from the installed msgpackr: its pack.js and unpack.js with the changes listed below.
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
    name: 'what the encoder asks of passfd is declared',
    why: 'src/codec/encodable.ts says what a value is and why one is refused; a place is collected while an exception passes through.',
    find: "export const RECORD_SYMBOL = Symbol('record-id');\n",
    replace: `$&const { getPrototypeOf, keys: keysOf, prototype: ObjectPrototype } = Object;
const { hasOwnProperty } = ObjectPrototype;
const { isArray } = Array;
/** Of the body in progress: how deep its encoder is, and whether a lone surrogate was replaced. */
export const state = { depth: 0, illFormed: false, longest: Infinity };
let hooks;
export function useHooks(given) {
	hooks = given;
}
`,
    times: 1
  },
  {
    name: 'each body begins at depth 0',
    why: 'What was left by a body that failed does not count.',
    find: '\t\t\tlet encodingError;\n',
    replace: '$&\t\t\tstate.depth = 0;\n\t\t\tstate.illFormed = false;\n',
    times: 1
  },
  {
    name: 'an array changes or is too deep',
    why: 'Its length may change by a getter or be a lie of a Proxy. Values are no deeper than the decoder takes, and one of many holes is not walked through in vain.',
    find: 'var length = value.length;\n\t\t\tif (length < 0x10) {\n\t\t\t\ttarget[position++] = 0x90 | length;',
    replace: `var length = value.length;
			if (length >>> 0 !== length) throw hooks.changed();
			if (length > state.longest) throw hooks.tooLong(length);
			if (++state.depth > hooks.MAX_DEPTH) throw hooks.tooDeep();
			if (length < 0x10) {
				target[position++] = 0x90 | length;`,
    times: 1
  },
  {
    name: 'the items of an array have a place',
    why: 'An error says where in the value it is.',
    find: 'for (let i = 0; i < length; i++) {\n\t\t\t\tpack(value[i]);\n\t\t\t}\n\t\t};',
    replace: `let i = 0;
			try {
				for (; i < length; i++) pack(value[i]);
			} catch (error) {
				throw hooks.within(error, value, i);
			}
			if (value.length !== length) throw hooks.changed();
			state.depth--;
		};`,
    times: 1
  },
  {
    name: 'a lone surrogate becomes U+FFFD in short strings, too',
    why: 'It was written as three bytes that are not UTF-8.',
    find: '} else {\n\t\t\t\t\t\t\ttarget[strPosition++] = c1 >> 12 | 0xe0;',
    replace: `} else {
							if ((c1 & 0xf800) === 0xd800) {
								c1 = 0xfffd;
								state.illFormed = true;
							}
							target[strPosition++] = c1 >> 12 | 0xe0;`,
    times: 1
  },
  {
    name: '-0 stays -0',
    why: 'It was written as the integer 0.',
    find: '(value < 0x40 && !this._writeStruct)) {\n\t\t\t\t\t\ttarget[position++] = value;',
    replace: `(value < 0x40 && !this._writeStruct)) {
						if (value === 0 && 1 / value < 0) {
							target[position++] = 0xcb;
							targetView.setFloat64(position, value);
							position += 8;
						} else
							target[position++] = value;`,
    times: 1
  },
  {
    name: 'functions are refused',
    why: 'Neither a toJSON() nor anything else makes a value of one.',
    find: "} else if (type === 'object' || type === 'function') {",
    replace:
      "} else if (type === 'function') {\n\t\t\t\tthrow hooks.unfit(value);\n\t\t\t} else if (type === 'object') {",
    times: 1
  },
  {
    name: 'what an object is, its internal slots tell',
    why: 'Constructors and instanceof fail for values of another realm, and lie. Packers write into the buffer directly: none of them encodes another body.',
    find: /let constructor = value\.constructor;\n\s+if \(constructor === Object\) \{[\s\S]*?(?=\} else if \(type === 'boolean'\) \{)/g,
    replace: `const prototype = getPrototypeOf(value);
					if (prototype === ObjectPrototype) writeObject(value);
					else if (isArray(value)) packArray(value);
					else {
						const packer = hooks.packerOf(value, prototype);
						if (packer === undefined) writeObject(value);
						else packer(value, allocate, pack, this.moreTypes);
					}
				}
			`,
    times: 1
  },
  {
    name: 'packers get their room by one function',
    why: 'msgpackr makes one for each value.',
    find: '\t\tconst pack = (value) => {\n',
    replace: `		const allocate = (size) => {
			position += size;
			if (position > safeEnd) makeRoom(position);
			return { target, targetView, position: position - size };
		};
$&`,
    times: 1
  },
  {
    name: 'a BigInt that does not fit is refused',
    why: "The error named options that a program can't set.",
    find: /throw new RangeError\(value \+ ' was too large to fit[\s\S]*?to convert to string'\);/g,
    replace: 'throw hooks.unfit(value);',
    times: 1
  },
  {
    name: 'symbols are refused',
    why: 'With the place where they stand.',
    find: "throw new Error('Unknown type: ' + type);",
    replace: 'throw hooks.unfit(value);',
    times: 1
  },
  {
    name: 'objects are written as they were when their keys were listed, or not at all',
    why: 'A getter may delete a key and a Proxy list others: then values were written under wrong keys, or too few of them.',
    find: /const writePlainObject = \([\s\S]*?(?=\/\/ create reference to useRecords if useRecords is a function)/g,
    replace: `const writePlainObject = (object) => {
			const keys = keysOf(object);
			const length = keys.length;
			if (++state.depth > hooks.MAX_DEPTH) throw hooks.tooDeep();
			if (length === 0 || keys[0] === '0') hooks.checkSlots(object);
			if (length < 0x10) {
				target[position++] = 0x80 | length;
			} else if (length < 0x10000) {
				target[position++] = 0xde;
				target[position++] = length >> 8;
				target[position++] = length & 0xff;
			} else {
				target[position++] = 0xdf;
				targetView.setUint32(position, length);
				position += 4;
			}
			let key;
			let i = 0;
			try {
				for (; i < length; i++) {
					key = keys[i];
					if (key.length >= 0x40 && !key.isWellFormed()) state.illFormed = true;
					pack(key);
					const item = object[key];
					if ((item === undefined || key === '__proto__') && !hasOwnProperty.call(object, key)) break;
					pack(item);
				}
			} catch (error) {
				throw hooks.within(error, object, key);
			}
			if (i < length) throw hooks.changed();
			if (state.illFormed) hooks.checkKeys(keys);
			state.depth--;
		};

		/** The keys of an object whose shape is new, if they are those that have led to this place in the tree. */
		const shapeOf = (object, transition) => {
			const keys = keysOf(object);
			let place = structures.transitions;
			for (let i = 0; i < keys.length && place; i++) place = place[keys[i]];
			if (place !== transition) throw hooks.changed();
			hooks.checkKeys(keys);
			return keys;
		};

		const writeRecord = this.useRecords === false ? writePlainObject : (object) => {
			let nextTransition, transition = structures.transitions || (structures.transitions = new Node());
			let newTransitions = 0;
			let key;
			for (key in object) if (hasOwnProperty.call(object, key)) {
				nextTransition = transition[key];
				if (!nextTransition) {
					nextTransition = transition[key] = new Node();
					newTransitions++;
				}
				transition = nextTransition;
			}
			if (++state.depth > hooks.MAX_DEPTH) throw hooks.tooDeep();
			const recordId = transition[RECORD_SYMBOL];
			if (recordId) target[position++] = recordId;
			else newRecord(transition, transition[KEYS] || shapeOf(object, transition), newTransitions);
			const keys = transition[KEYS];
			if (keys.length === 0 || keys[0] === '0') hooks.checkSlots(object);
			let at = 0;
			try {
				for (key in object) if (hasOwnProperty.call(object, key)) {
					if (key !== keys[at]) break;
					at++;
					pack(object[key]);
				}
			} catch (error) {
				throw hooks.within(error, object, key);
			}
			if (at !== keys.length) throw hooks.changed();
			state.depth--;
		};

		`,
    times: 1
  },
  {
    name: 'the keys of a record are no deeper than the record',
    why: 'They are written as an array.',
    find: '\t\t\t\tpack(keys);\n',
    replace: '\t\t\t\tstate.depth--;\n\t\t\t\tpack(keys);\n\t\t\t\tstate.depth++;\n',
    times: 1
  },
  {
    name: 'pack.js exports all that passfd uses',
    why: 'src/codec/msgpackr/pack.d.ts declares it as one module.',
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
    name: 'a reader is compiled for what is used often',
    why: 'After three uses, as msgpackr has it, a peer could have us compile 70,000 functions for each MiB; after 64 it is some 5,000.',
    find: 'var inlineObjectReadThreshold = 2;',
    replace: 'var inlineObjectReadThreshold = 64;',
    times: 1
  },
  {
    name: 'the keys of a large Map are looked at before they are inserted',
    why: 'V8 hashes numbers and bigints without a seed: see src/codec/key-chains.ts. `chainsOf` is an option of each Unpackr.',
    find: /(function readMap\([\s\S]*?let map = new Map\(\);\n)(\t\tfor [^\n]*\n)\t\t\tmap\.set\(read\(\), read\(\)\);/g,
    replace:
      '$1\t\tlet chains = currentUnpackr.chainsOf(length);\n$2\t\t\tlet key = read();\n\t\t\tif (chains) chains.add(key);\n\t\t\tmap.set(key, read());',
    times: 1
  },
  {
    name: 'keys are cached wherever they stand',
    why: 'Behind byte 180 msgpackr left that to its native part, which passfd has not.',
    find: /\t\telse if \(!\(srcStringEnd == 0 && srcEnd < 180\)\)\n\t\t\treturn readFixedString\(length\);\n/g,
    replace: '',
    times: 1
  },
  {
    name: '__proto__ is a key like others',
    why: 'It was renamed to __proto_, and could take the place of another key.',
    find: /if \(key === '__proto__'\)\n\s+key = '__proto_';\n(\s+)object\[key\] = read\(\);/g,
    replace: `if (key === '__proto__')
$1	defineProperty(object, key, { value: read(), writable: true, enumerable: true, configurable: true });
$1else
$1	object[key] = read();`,
    times: 3
  },
  {
    name: '__proto__ is a key like others for compiled readers, too',
    why: 'See the change before. A computed key defines a property.',
    find: "key === '__proto__' ? '__proto_:r()' : validName.test(key) ?",
    replace: "validName.test(key) && key !== '__proto__' ?",
    times: 1
  },
  {
    name: 'what defines __proto__ is declared',
    why: 'See two changes before.',
    find: 'const EMPTY_ARRAY = [];\n',
    replace: '$&const { defineProperty } = Object;\n',
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
    write(new URL('src/codec/msgpackr/', root), files)
    const declarations = readFileSync(new URL('src/codec/msgpackr/pack.d.ts', root), 'utf8')
    write(new URL('dist/codec/msgpackr/', root), { ...files, 'pack.d.ts': declarations })
  } catch (error) {
    console.error(error.message)
    process.exitCode = 1
  }
}
