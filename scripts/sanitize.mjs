/**
 * Runs the tests on a shim built with the address and undefined-behaviour sanitizers, or with the thread sanitizer.
 *
 *     npm run sanitize                                 all tests
 *     npm run sanitize -- test/os/native.test.ts ...   some; arguments go to ava
 *     npm run sanitize -- --threads ...                with the thread sanitizer
 *
 * The shim is built from a copy of native/ with PASSFD_SANITIZE, and loaded through PASSFD_SHIM: the
 * normal build stays as it is. Fails if the build or a test fails, or if a sanitizer reports anything.
 */
import { execFileSync, spawn } from 'node:child_process'
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { basename, isAbsolute, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildShim } from './build-native.mjs'

const REPORT = /ERROR: AddressSanitizer|runtime error:|WARNING: ThreadSanitizer/
const SANITIZERS = {
  memory: {
    flag: 'address,undefined',
    library: 'libasan.so',
    sign: '__asan_init',
    command: [],
    options: common => ({
      ASAN_OPTIONS: `detect_leaks=0:handle_segv=0:abort_on_error=1:${common}`,
      UBSAN_OPTIONS: `halt_on_error=1:print_stacktrace=1:abort_on_error=1:${common}`
    })
  },
  threads: {
    flag: 'thread',
    library: 'libtsan.so',
    sign: '__tsan_init',
    // It needs addresses where it expects them; and it can't judge Node, whose atomics it doesn't see
    command: ['setarch', '-R'],
    options: common => ({ TSAN_OPTIONS: `ignore_noninstrumented_modules=1:exitcode=0:${common}` })
  }
}
const args = process.argv.slice(2)
const kind = args[0] === '--threads' ? 'threads' : 'memory'
if (kind === 'threads') args.shift()
const { flag, library: wanted, sign, command, options } = SANITIZERS[kind]
const path = name => fileURLToPath(new URL(`../${name}`, import.meta.url))
const cache = path(`node_modules/.cache/passfd-sanitize-${kind}`)
const source = path('native')
const reports = join(cache, 'reports')

try {
  const shim = build()
  const { status, seen } = await test(shim)
  const written = collectReports()
  if (status !== 0) fail(`the tests failed (${status})`)
  if (seen || written > 0) fail('a sanitizer reported an error, see above')
} catch (error) {
  fail(error.message)
}

function build() {
  rmSync(cache, { recursive: true, force: true })
  mkdirSync(reports, { recursive: true })
  const folder = join(cache, 'native')
  cpSync(source, folder, { recursive: true, filter: from => basename(from) !== 'build' })
  console.log('sanitize: building the shim')
  const shim = buildShim(folder, { ...process.env, PASSFD_SANITIZE: flag })
  // Without this a build that ignores PASSFD_SANITIZE would pass, and prove nothing.
  if (!readFileSync(shim).includes(sign)) throw new Error(`the shim was built without ${flag}`)
  return shim
}

/** Resolves to ava's exit status, and whether its output shows a sanitizer's report. */
function test(shim) {
  const library = execFileSync('gcc', [`-print-file-name=${wanted}`], { encoding: 'utf8' }).trim()
  if (!isAbsolute(library)) throw new Error(`gcc has no ${wanted}: install it (Debian: libgcc-*-dev)`)
  const [program, ...before] = [...command, process.execPath]
  const ava = spawn(program, [...before, path('node_modules/ava/entrypoints/cli.mjs'), ...args], {
    cwd: path('.'),
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      ...process.env,
      LD_PRELOAD: library,
      // To files, as a test may swallow what a process it starts says on stderr.
      ...options(`log_path=${join(reports, 'report')}`),
      PASSFD_SHIM: shim
    }
  })
  console.log('sanitize: running the tests')
  let seen = false
  for (const [from, to] of [
    [ava.stdout, process.stdout],
    [ava.stderr, process.stderr]
  ]) {
    let tail = ''
    from.setEncoding('utf8').on('data', text => {
      to.write(text)
      seen ||= REPORT.test(tail + text)
      tail = text.slice(-100)
    })
  }
  return new Promise((resolve, reject) => {
    ava.on('error', reject)
    ava.on('close', (code, signal) => resolve({ status: code ?? signal, seen }))
  })
}

/** Shows the sanitizers' reports; returns how many there are. */
function collectReports() {
  const names = readdirSync(reports)
  for (const name of names) console.error(readFileSync(join(reports, name), 'utf8'))
  return names.length
}

function fail(message) {
  console.error(`sanitize: ${message}`)
  process.exitCode = 1
}
