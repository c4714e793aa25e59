/**
 * Writes api/passfd.api.md: all that users of passfd may rely on, in one file that a reviewer can read. `npm run api` writes it. With
 * `--check [file]` it prints how that differs instead. So a commit that changes the public surface changes this file, too.
 *
 * API Extractor reads the declarations in dist/ that the doors of package.json name. The rest comes from the sources themselves: tsx loads them.
 */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Extractor, ExtractorConfig } from '@microsoft/api-extractor'
import { transformSync } from 'esbuild'
import { errorCodes } from '../src/base/errors.ts'
import { sayHello } from '../src/channel/hello.ts'
import { EXIT } from '../src/cli/exit.ts'
import { passfd } from '../src/cli/main.ts'
import { OPTIONS } from '../src/cli/serve/options.ts'
import { offersFor } from '../src/cli/ui.ts'
import { LEAST, NEWEST } from '../src/prefork/control/control.ts'
import { metricsOf } from '../src/prefork/supervisor/metrics.ts'
import { FEATURES, VERSION } from '../src/takeover/messages.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const [check, path = join(root, 'api/passfd.api.md')] = process.argv.slice(2)
const { exports, engines } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const doors = Object.entries(exports).flatMap(([name, { types }]) => (types === undefined ? [] : [{ name, types }]))

const text = [
  '# The public surface of passfd',
  'Written by `npm run api`: do not edit. [docs/stability.md](../docs/stability.md) has the rules for a change of this file.',
  section('Codes of errors', errorCodes.toSorted()),
  ...named(),
  section('Protocols', [
    `channel: version ${hello().version}, features ${hello().features.join(', ')}`,
    `takeover: version ${VERSION}, features ${FEATURES.join(', ') || 'none'}`,
    `supervisor and worker: versions ${LEAST} to ${NEWEST}`
  ]),
  section('Node', [engines.node]),
  section(
    'Exit codes of the command',
    Object.entries(EXIT).map(([name, code]) => `${code} ${name}`)
  ),
  section('The command', commands(passfd())),
  section('Names in a configuration of the command', configured()),
  section('Metrics', await metrics()),
  `## Declarations\n\n${declarations()}`
]
const report = `${text.join('\n\n').trim()}\n`

if (check !== undefined && check !== '--check') throw new Error(`usage: npm run api [-- --check [file]]`)
if (check === '--check') {
  const difference = differenceTo(report)
  if (difference !== '') {
    console.error(
      `${difference}\nThe public surface has changed. Run "npm run api", and review the change of api/passfd.api.md.`
    )
    process.exitCode = 1
  }
} else {
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, report)
}

function section(title, lines) {
  return `## ${title}\n\n\`\`\`\n${lines.join('\n')}\n\`\`\``
}

/** With all features. */
function hello() {
  return sayHello({ records: true })
}

/** Names that programs know without an import. */
function named() {
  const code = readdirSync(join(root, 'src'), { recursive: true })
    .filter(name => /(?<!\.d)\.c?ts$/.test(name))
    .sort()
    // Without the comments
    .map(name => transformSync(readFileSync(join(root, 'src', name), 'utf8'), { loader: 'ts', target: 'es2022' }).code)
    .join('\n')
  const found = pattern => [...new Set([...code.matchAll(pattern)].map(([, name]) => name))].sort()
  const channels = [
    ...found(/\.channel\("(passfd:[\w:]+)"/g),
    ...found(/\.tracingChannel\("(passfd:[\w:]+)"/g).map(
      name => `tracing:${name}:{start,end,asyncStart,asyncEnd,error}`
    )
  ]
  const warnings = found(/\bcode: ["`](PASSFD_[A-Z_]+)/g)
  const resources = found(/\bnew Async(?:Context|Resource)\("(PASSFD_[A-Z_]+)"/g)
  // A variable may have the name of a resource
  const others = found(/(?<![A-Z_]|new Async(?:Context|Resource)\("|\bcode: ["`])(PASSFD_[A-Z_]*[A-Z])(?![A-Z_])/g)
  return [
    section('Diagnostics channels', channels),
    section(
      'Codes of warnings, besides those of errors',
      warnings.map(name => name.replace(/_$/, '_*'))
    ),
    section('Variables of the environment', others),
    section('Types of async resources', resources)
  ]
}

function commands(command, above = '') {
  const help = command.createHelp()
  const name = `${above}${command.name()}`
  const operands = command.registeredArguments.map(argument =>
    withOffers(
      `${argument.required ? '<' : '['}${help.argumentTerm(argument)}${argument.variadic ? '...' : ''}${argument.required ? '>' : ']'}`,
      argument
    )
  )
  const options = help.visibleOptions(command).map(option => `  ${withOffers(option.flags, option)}`)
  return [
    [name, ...operands].join(' '),
    ...options.sort(),
    ...help
      .visibleCommands(command)
      .filter(each => each.name() !== 'help')
      .flatMap(each => commands(each, `${name} `))
  ]
}

function configured() {
  return Object.keys(OPTIONS)
    .filter(name => OPTIONS[name].commandLineOnly !== true)
    .sort()
}

/** As `passfd_workers{state}: gauge`, of a supervisor of which everything is known. */
async function metrics() {
  const worker = { slot: 0, id: 1, pid: 1, state: 'ready', uptime: 1, restarts: 1 }
  const text = await metricsOf({
    workers: [{ ...worker, connections: 1, requests: 1, lag: 1, rss: 1, cpu: 1 }],
    exits: { 0: 1 },
    restarts: 1,
    since: 1,
    replacements: { rss: 1 },
    lameDuck: true
  })
  return [...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)]
    .map(([, name, kind]) => {
      const [sample, labels = ''] = new RegExp(`^(${name}(?:_total)?)(?:\\{(.*)\\})? `, 'm').exec(text).slice(1)
      const names = [...labels.matchAll(/(\w+)="/g)].map(([, label]) => label)
      return `${sample}${names.length === 0 ? '' : `{${names.join()}}`}: ${kind}`
    })
    .sort()
}

function withOffers(term, of) {
  const offers = offersFor(of)
  return offers === undefined ? term : `${term}: ${offers.join(', ')}`
}

/** Of all doors in one report, so that what two doors share stands there once. */
function declarations() {
  // Not in dist/, which is packed
  mkdirSync(join(root, '.cache'), { recursive: true })
  const temporary = mkdtempSync(join(root, '.cache/api-'))
  const entry = join(temporary, 'doors.d.ts')
  try {
    writeFileSync(
      entry,
      doors
        .map(
          door => `export * as ${namespaceOf(door)} from '../../${door.types.slice(2).replace(/\.d\.ts$/, '.js')}'\n`
        )
        .join('')
    )
    const quiet = { default: { logLevel: 'none' } }
    const config = ExtractorConfig.prepare({
      configObjectFullPath: join(root, 'api-extractor.json'), // there is no such file; paths are relative to its folder
      packageJsonFullPath: join(root, 'package.json'),
      configObject: {
        projectFolder: root,
        mainEntryPointFilePath: entry,
        newlineKind: 'lf',
        compiler: {
          overrideTsconfig: {
            compilerOptions: {
              module: 'nodenext',
              target: 'es2022',
              lib: ['es2023', 'es2024.string', 'esnext.disposable'],
              types: ['node'],
              typeRoots: [join(root, 'node_modules/@types')],
              strict: true,
              exactOptionalPropertyTypes: true,
              skipLibCheck: true
            },
            files: [entry]
          }
        },
        apiReport: {
          enabled: true,
          reportFileName: 'all.api.md',
          reportFolder: temporary,
          reportTempFolder: join(temporary, 'new')
        },
        docModel: { enabled: false },
        dtsRollup: { enabled: false },
        tsdocMetadata: { enabled: false },
        messages: {
          extractorMessageReporting: quiet,
          tsdocMessageReporting: quiet,
          compilerMessageReporting: { default: { logLevel: 'error' } }
        }
      }
    })
    const errors = []
    Extractor.invoke(config, {
      localBuild: true,
      messageCallback: message => {
        if (message.logLevel === 'error') errors.push(message.text)
        message.handled = true
      }
    })
    if (errors.length > 0) throw new Error(errors.join('\n'))
    const made = readFileSync(join(temporary, 'all.api.md'), 'utf8')
    const [block] = /```ts\n[\s\S]*?\n```/.exec(made)
    // Comments do not change what a program may rely on, except @deprecated
    return block
      .replace(/^ *\/\/ (?!.*@deprecated).*\n|^ *\/\*\*[\s\S]*?\*\/\n/gm, '')
      .replace(/\n{3,}/g, '\n\n')
      .replace(/\n+```$/, '\n```')
      .replace(/^```ts\n+/, '```ts\n')
  } finally {
    rmSync(temporary, { recursive: true, force: true })
  }
}

function namespaceOf({ name }) {
  return name === '.' ? 'passfd' : name.slice(2)
}

/** As `diff` shows it; empty: none. */
function differenceTo(report) {
  if (!existsSync(path)) return 'api/passfd.api.md is missing.'
  try {
    execFileSync('diff', ['-u', '--label', 'api/passfd.api.md', '--label', 'now', path, '-'], {
      input: report,
      encoding: 'utf8'
    })
    return ''
  } catch (error) {
    return error.stdout
  }
}
