/**
 * Runs test files of other projects twice: as they are, and as the `program` of a supervisor with one worker, so that each `listen()` in them is
 * answered by passfd. Reports where the two differ. It fetches nothing and is bounded: each run has a time limit. See `usage`, and CONTRIBUTING.md.
 */
import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join, resolve } from 'node:path'
import { argv, env, execPath, exit, kill } from 'node:process'
import { parseArgs } from 'node:util'
import { Supervisor } from '../dist/prefork/index.js'

const usage = `node scripts/other-suites.mjs [options] node <the folder test/ of Node's repository> [word…]
  Node's own tests of http, https, http2, net, tls and dgram that listen; with words, those whose path contains one of them.
node scripts/other-suites.mjs [options] files <folder> <file…> -- <command…>
  In the folder, the command with each file as its last argument: … files ../ws test/*.test.js -- npx mocha --exit
node scripts/other-suites.mjs [options] command <folder> -- <command…>
  In the folder, the command once: … command ../express -- npm test

--node <path>     the Node that runs the tests of Node (default: this one)
--balance <name>  per-worker (default), shared, or a policy of dispatch: round-robin, least-connections, address
--jobs <n>        how many tests at once (default: 2)
--limit <seconds> the time limit of a run (default: 60)
--json <file>     write all results there`

const FAMILIES = /^test-(http|https|http2|net|tls|dgram)-.*\.m?js$/
const FOLDERS = ['parallel', 'sequential']
/** How often a test that has differed is run again: it may have failed by chance. */
const AGAIN = 2
const MAX_OUTPUT = 100_000

const dashes = argv.indexOf('--')
const command = dashes < 0 ? [] : argv.slice(dashes + 1)
const { values, positionals } = parseArgs({
  args: argv.slice(2, dashes < 0 ? undefined : dashes),
  allowPositionals: true,
  options: {
    node: { type: 'string', default: execPath },
    balance: { type: 'string', default: 'per-worker' },
    jobs: { type: 'string', default: '2' },
    limit: { type: 'string', default: '60' },
    json: { type: 'string' }
  }
})
const limit = Number(values.limit) * 1000
const balance = ['per-worker', 'shared'].includes(values.balance) ? values.balance : { dispatch: values.balance }
const scratch = mkdtempSync(join(tmpdir(), 'suites-'))

const [kind, folder, ...rest] = positionals
const listed = { node: nodeTests, files: filesOf, command: commandOf }[kind]
if (listed === undefined || folder === undefined) {
  console.error(usage)
  exit(2)
}
const tests = listed(resolve(folder), rest)
const count = tests.length
const results = []
await Promise.all(Array.from({ length: Number(values.jobs) }, (_, job) => work(job)))
rmSync(scratch, { recursive: true, force: true })
report()

/** Tests that use node:cluster are a group of their own, because a program can't. */
function nodeTests(root, words) {
  return FOLDERS.flatMap(one => readdirSync(join(root, one)).map(name => join(one, name))).flatMap(name => {
    const [, family] = FAMILIES.exec(basename(name)) ?? []
    if (family === undefined || (words.length > 0 && !words.some(word => name.includes(word)))) return []
    const path = join(root, name)
    const source = readFileSync(path, 'utf8')
    if (!/\b(listen|bind|createSocket)\(/.test(source)) return []
    // As tools/test.py of Node reads them
    const flags = [...source.matchAll(/^\/\/ Flags:(.*)$/gm)].flatMap(([, text]) => text.trim().split(/\s+/))
    return [
      {
        name,
        group: /require\(['"](node:)?cluster['"]\)/.test(source) ? 'cluster' : family,
        internals: flags.some(flag => flag.startsWith('--expose')),
        command: [values.node, ...flags, path],
        cwd: root
      }
    ]
  })
}

function filesOf(cwd, files) {
  return files.map(name => ({ name, group: 'files', command: [...command, name], cwd }))
}

function commandOf(cwd) {
  return [{ name: command.join(' '), group: 'command', command, cwd }]
}

async function work(job) {
  for (let test = tests.shift(); test !== undefined; test = tests.shift()) {
    const plain = [await alone(test, job)]
    const served = [await supervised(test, job)]
    for (let i = 0; i < AGAIN && !agree(plain, served); i++) {
      plain.push(await alone(test, job))
      served.push(await supervised(test, job))
    }
    const result = { ...test, outcome: outcomeOf(plain, served), plain, served }
    results.push(result)
    if (results.length % 50 === 0) console.log(`${results.length} of ${count}`)
    if (result.outcome !== 'same')
      console.log(`${result.outcome}: ${test.name}: ${plain.map(saysOf)} / ${served.map(saysOf)}`)
  }
}

/** Whether both have passed once, or have ended in the same way. */
function agree(plain, served) {
  return saysOf(plain.at(-1)) === saysOf(served.at(-1)) || (plain.some(passes) && served.some(passes))
}

function outcomeOf(plain, served) {
  if (plain.length === 1) return 'same'
  if (!agree(plain, served)) return 'different'
  return 'unsteady'
}

function passes({ code }) {
  return code === 0
}

/** How a run has ended. */
function saysOf({ code, signal, late, counts }) {
  return late ? 'late' : `${signal ?? code}${counts === '' ? '' : ` (${counts})`}`
}

/** What mocha, TAP and node:test count. */
function countsOf(output) {
  const counts = output.matchAll(/^\s*(\d+ (?:passing|failing|pending)|[#ℹ] (?:pass|fail|skipped) +\d+)/gmu)
  return [...counts].map(([, text]) => text.replace(/^[#ℹ] /u, '')).join(', ')
}

function environmentOf(job) {
  const folder = join(scratch, `${job}`)
  mkdirSync(folder, { recursive: true })
  const { NODE_OPTIONS: _, ...others } = env
  return { ...others, NODE_TEST_DIR: folder, TEST_THREAD_ID: `${job}`, TEST_COMMON_PORT: `${21_346 + 100 * job}` }
}

function alone({ command: [program, ...args], cwd }, job) {
  return new Promise(done => {
    const child = spawn(program, args, {
      cwd,
      env: environmentOf(job),
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true
    })
    let output = ''
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', text => {
        if (output.length < MAX_OUTPUT) output += text
      })
    let late = false
    const end = () => {
      try {
        kill(-child.pid, 'SIGKILL') // and what it has left behind
      } catch {
        // nothing is left
      }
    }
    const timer = setTimeout(() => {
      late = true
      end()
    }, limit)
    child.once('error', error => done({ code: null, signal: error.code, late, output, counts: '' }))
    child.once('exit', (code, signal) => {
      clearTimeout(timer)
      setImmediate(() => {
        end()
        done({ code, signal, late, output, counts: countsOf(output) })
      })
    })
  })
}

async function supervised({ command: program, cwd }, job) {
  let output = ''
  let late = false
  const supervisor = new Supervisor({
    program,
    listeners: {},
    workers: 1,
    balance,
    readyTimeout: 0,
    hangTimeout: 0,
    stopTimeout: 500,
    killTimeout: 5000,
    restart: () => ({ restart: false, reason: 'a test runs once' }),
    spawn: { cwd, env: environmentOf(job), stdio: 'lines' }
  })
  supervisor.on('gaveUp', () => {})
  supervisor.on('listenerClosed', () => {})
  supervisor.on('line', (_worker, _stream, line) => {
    if (output.length < MAX_OUTPUT) output += `${line}\n`
  })
  const ended = new Promise(done => {
    supervisor.once('exit', (_worker, code, signal) => done({ code, signal }))
  })
  const timer = setTimeout(() => {
    late = true
    supervisor.kill()
  }, limit)
  const started = supervisor.start().catch(error => {
    output += `start(): ${error.message}\n`
  })
  const { code, signal } = await ended
  clearTimeout(timer)
  await started
  await supervisor.stop().catch(() => {})
  return { code, signal, late, output, counts: countsOf(output) }
}

function report() {
  if (values.json !== undefined) writeFileSync(values.json, JSON.stringify(results, null, 1))
  const groups = [...new Set(results.map(({ group }) => group))].sort()
  const rows = groups.map(group => {
    const all = results.filter(result => result.group === group)
    return {
      group,
      run: all.length,
      'pass without': all.filter(({ plain }) => plain.some(passes)).length,
      'pass with': all.filter(({ served }) => served.some(passes)).length,
      skipped: all.filter(({ plain }) => /^1\.\.0 # Skipped/m.test(plain[0].output)).length,
      unsteady: all.filter(({ outcome }) => outcome === 'unsteady').length,
      different: all.filter(({ outcome }) => outcome === 'different').length
    }
  })
  console.table(rows)
  for (const { name, internals, plain, served } of results.filter(({ outcome }) => outcome === 'different'))
    console.log(
      `${name}${internals ? ' (internals)' : ''}: ${saysOf(plain.at(-1))} without, ${saysOf(served.at(-1))} with passfd`
    )
  exit(results.some(({ outcome }) => outcome === 'different') ? 1 : 0)
}
