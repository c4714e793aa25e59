/**
 * Runs the published package where it is to run, and not only where it was built: `node scripts/platforms.mjs NAME…`, or `all`.
 *   debian11, arm64, musl      the tests, with the binary of the packed tarball in place of this clone's
 *   user-debian11, user-arm64  what a new user does: installs the tarball, and follows the README
 *   prepare                    makes what these need, and runs nothing: some minutes and 3 GB in .cache/ the first time
 * After a name come the test files to run, all of scripts/platforms/tests.mjs otherwise. Prints TAP, and says what it does on stderr.
 * Needs x64, root, debootstrap, iproute2, the binaries of `npm run build:prebuild`, and the registries of npm and Debian.
 */
import { spawn } from 'node:child_process'
import { mkdirSync, rmdirSync } from 'node:fs'
import { compileTests } from './compile-tests.mjs'
import { makeTestPlatform, makeUserPlatform, TEST_PLATFORMS, USER_PLATFORMS } from './platforms/make.mjs'
import { packed } from './platforms/packed.mjs'
import { excluded, NOT_EMULATED, testFilesOf } from './platforms/tests.mjs'
import { path } from './targets.mjs'

const ENTER = path('scripts/platforms/enter.sh')
const SPACE = path(`.cache/platforms/space-${process.pid}`)
/** What is in there must not depend on this machine's settings. */
const ENVIRONMENT = {
  PATH: '/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin',
  HOME: '/root',
  LANG: 'C.UTF-8',
  CI: 'true'
}
const NAMES = [...TEST_PLATFORMS, ...USER_PLATFORMS]

const [first, ...others] = process.argv.slice(2)
const isFile = name => name?.endsWith('.test.ts')
const names = first === 'all' || first === 'prepare' ? NAMES : [first, ...others].filter(name => !isFile(name))
const unknown = names.filter(name => !NAMES.includes(name))
if (first === undefined || unknown.length > 0) {
  console.error(`usage: node scripts/platforms.mjs prepare | all | ${NAMES.join(' | ')} [test files]`)
  process.exit(2)
}

await compileTests()
const tarball = await packed()
for (const name of names) {
  const isUser = USER_PLATFORMS.includes(name)
  const platform = isUser ? makeUserPlatform(name, tarball) : makeTestPlatform(name, tarball)
  if (first === 'prepare') continue
  console.error(`platforms: ${name}`)
  if (platform.emulation !== undefined) await checkEmulation(platform)
  const status = await enter(platform, isUser ? platform.command : testCommand(name))
  if (status !== 0) process.exitCode = 1
}

function testCommand(name) {
  const given = others.filter(isFile)
  return [
    ...['node', 'node_modules/ava/entrypoints/cli.mjs', '--tap', '--concurrency=2'],
    ...excluded(name).map(title => `--match=!*${title}`),
    ...(given.length > 0 ? given : testFilesOf(name))
  ]
}

/** The tests that are left out under emulation are those of what it lacks. */
async function checkEmulation(platform) {
  let output = ''
  await enter(platform, platform.emulation, text => {
    output += text
  })
  const lacks = output
    .trim()
    .split('\n')
    .map(line => line.split(': ')[0])
  const differ = [...lacks, ...Object.keys(NOT_EMULATED)].filter(one => !(lacks.includes(one) && one in NOT_EMULATED))
  if (differ.length === 0) return
  console.error(`platforms: qemu-user lacks ${lacks}; change NOT_EMULATED in scripts/platforms/tests.mjs: ${differ}`)
  process.exitCode = 1
}

/** Resolves to the exit status. All that the command has started ends with it: its first process takes the others along. */
function enter({ layers, over, work }, command, onOutput) {
  mkdirSync(SPACE, { recursive: true })
  const own = ['--mount', '--pid', '--net', '--ipc', '--fork', '--kill-child']
  const args = [
    ...own,
    'sh',
    ENTER,
    SPACE,
    layers.join(':'),
    over ? path('.') : '-',
    over?.join(':') ?? '',
    work,
    ...command
  ]
  const child = spawn('unshare', args, {
    env: ENVIRONMENT,
    stdio: ['ignore', onOutput ? 'pipe' : 'inherit', 'inherit']
  })
  child.stdout?.setEncoding('utf8').on('data', onOutput)
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => {
      rmdirSync(SPACE) // what was mounted on it went with the process
      resolve(code ?? signal)
    })
  })
}
