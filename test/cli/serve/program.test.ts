import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { EXIT } from '../../../src/cli/exit.ts'
import { checkFound, commandOf } from '../../../src/cli/serve/program.ts'
import { environmentOf, type Setting } from '../../../src/cli/serve/supervisor-options.ts'
import { test } from '../../helpers/test.ts'

const folder = mkdtempSync(join(tmpdir(), 'passfd-program-'))
process.on('exit', () => rmSync(folder, { recursive: true }))
for (const name of ['server.js', 'server.ts', 'script']) writeFileSync(join(folder, name), '')
for (const name of ['package', 'main', 'folder', 'exports']) mkdirSync(join(folder, name))
writeFileSync(join(folder, 'package', 'index.js'), '')
writeFileSync(join(folder, 'main', 'package.json'), '{"main":"./start.js"}')
writeFileSync(join(folder, 'main', 'start.js'), '')
writeFileSync(join(folder, 'exports', 'package.json'), '{"exports":"./start.js"}')
writeFileSync(join(folder, 'exports', 'start.js'), '')
const node = process.execPath

test('files of JavaScript, and packages, are run by this Node', t => {
  t.deepEqual(commandOf('server.js', ['--port', '1'], {}, folder), [node, 'server.js', '--port', '1'])
  t.deepEqual(commandOf('package', [], {}, folder), [node, 'package'])
  t.deepEqual(commandOf('main', [], {}, folder), [node, 'main'])
  t.deepEqual(commandOf('.', [], {}, join(folder, 'main')), [node, '.'])
  t.deepEqual(commandOf(join(folder, 'server.js'), [], {}, '/'), [node, join(folder, 'server.js')])
})

test('Node’s options stand before them', t => {
  const options = { import: ['tsx', './x.mjs'], require: ['y'], conditions: ['dev'], nodeOption: ['--no-deprecation'] }
  t.deepEqual(commandOf('server.ts', ['a'], options, folder), [
    node,
    '--no-deprecation',
    '--conditions=dev',
    '--require=y',
    '--import=tsx',
    '--import=./x.mjs',
    'server.ts',
    'a'
  ])
})

test('all else is a command', t => {
  t.deepEqual(commandOf('npm', ['start'], {}, folder), ['npm', 'start'])
  t.deepEqual(commandOf('./script', [], {}, folder), ['./script'])
  const error: any = t.throws(() => commandOf('npm', ['start'], { import: ['tsx'] }, folder))
  t.is(error.exitCode, EXIT.usage)
  t.regex(error.message, /^npm is a command, so --import can't be given to Node$/)
})

test('a folder that Node can not run is none; its name may be that of a command', t => {
  for (const [name, cwd] of [
    ['./folder', folder],
    ['.', join(folder, 'folder')],
    [join(folder, 'exports'), '/']
  ] as const) {
    const error: any = t.throws(() => commandOf(name, [], {}, cwd))
    t.is(error.exitCode, EXIT.noInput)
    t.regex(error.message, /^The folder \/.* has no program: neither its package.json names a file as "main"/)
  }
  t.deepEqual(commandOf('folder', ['start'], {}, folder), ['folder', 'start'])
  const error: any = t.throws(() => checkFound('folder', '/bin', folder))
  t.is(error.message, 'There is no command "folder"')
  t.regex(error.remedy, /^The folder of that name has no program, either/)
})

test('a command is looked for as npm does: in node_modules/.bin of the folder, then of those around it, then in PATH', t => {
  const setting = { cwd: '/repo/packages/web', env: { PATH: '/bin' } } as unknown as Setting
  t.deepEqual(environmentOf({}, setting).PATH?.split(':'), [
    '/repo/packages/web/node_modules/.bin',
    '/repo/packages/node_modules/.bin',
    '/repo/node_modules/.bin',
    '/node_modules/.bin',
    '/bin'
  ])
})

test('a command that is a file has to be executable', t => {
  const path = join(folder, 'start')
  writeFileSync(path, '#!/bin/sh\n', { mode: 0o644 })
  const error: any = t.throws(() => checkFound('./start', '/bin', folder))
  t.is(error.exitCode, EXIT.noPermission)
  t.is(error.message, `${path} can't be executed`)
  t.regex(error.remedy, /chmod \+x \.\/start/)
  chmodSync(path, 0o755)
  t.notThrows(() => checkFound('./start', '/bin', folder))
  t.notThrows(() => checkFound(path, '/bin', '/'))
})

test('a program that is not there, and TypeScript without a loader', t => {
  for (const name of ['none.js', './none', 'package/none.mjs']) {
    const error: any = t.throws(() => commandOf(name, [], {}, folder))
    t.is(error.exitCode, EXIT.noInput, name)
  }
  if ((process.features as { typescript?: unknown }).typescript) return
  const error: any = t.throws(() => commandOf('server.ts', [], {}, folder))
  t.is(error.exitCode, EXIT.usage)
  t.regex(error.remedy, /--import tsx/)
})
