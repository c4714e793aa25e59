/**
 * Runs the tests on a shim built with the address and undefined-behaviour sanitizers.
 *
 *     npm run sanitize                              all tests
 *     npm run sanitize -- test/os/native.test.ts ...   some; arguments go to ava
 *
 * The shim is built from a copy of native/ with PASSFD_SANITIZE=1, and loaded through PASSFD_SHIM: the
 * normal build stays as it is. Fails if the build or a test fails, or if a sanitizer reports anything.
 */
import { execFileSync, spawn } from 'node:child_process'
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { basename, isAbsolute, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildShim } from './build-native.mjs'

const REPORT = /ERROR: AddressSanitizer|runtime error:/
const path = name => fileURLToPath(new URL(`../${name}`, import.meta.url))
const cache = path('node_modules/.cache/passfd-sanitize')
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
  const shim = buildShim(folder, { ...process.env, PASSFD_SANITIZE: '1' })
  // Without this a build that ignores PASSFD_SANITIZE would pass, and prove nothing.
  if (!readFileSync(shim).includes('__asan_init')) throw new Error('the shim was built without the address sanitizer')
  return shim
}

/** Resolves to ava's exit status, and whether its output shows a sanitizer's report. */
function test(shim) {
  const library = execFileSync('gcc', ['-print-file-name=libasan.so'], { encoding: 'utf8' }).trim()
  if (!isAbsolute(library)) throw new Error('gcc has no libasan.so: install libasan (Debian: libgcc-*-dev)')
  // To files, as a test may swallow what a process it starts says on stderr.
  const common = `abort_on_error=1:log_path=${join(reports, 'report')}`
  const ava = spawn(process.execPath, [path('node_modules/ava/entrypoints/cli.mjs'), ...process.argv.slice(2)], {
    cwd: path('.'),
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      ...process.env,
      LD_PRELOAD: library,
      ASAN_OPTIONS: `detect_leaks=0:${common}`,
      UBSAN_OPTIONS: `halt_on_error=1:print_stacktrace=1:${common}`,
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
