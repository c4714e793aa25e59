/** The examples do what their comments and the README say. They import the built package, as users do. */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { ExecutionContext } from 'ava'
import { socketPath } from './helpers/path.ts'
import { type Running, start } from './helpers/process.ts'
import { test, testIf } from './helpers/test.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const python = '/usr/bin/python3'

test('the demo prints what the README shows, and leaves nothing behind', async t => {
  const demo = example('demo')
  const lines: string[] = []
  while (lines.length < 9) lines.push(await demo.line())
  await ends(t, demo)
  const [, shown] = /^```console\n\$ npm start\n([\s\S]*?)\n```/m.exec(readFileSync(join(root, 'README.md'), 'utf8'))!
  t.deepEqual(lines.map(general).sort(), shown!.split('\n').map(general).sort())

  const [receiver, sender] = [/^receiver: process (\d+) waits/, /^sender: process (\d+) has opened/].map(
    pattern => lines.map(line => pattern.exec(line)?.[1]).find(pid => pid !== undefined)!
  )
  t.true(lines.includes(`demo: it answers "You have reached process ${receiver}."`))
  t.true(lines.some(line => line.startsWith(`receiver: process ${sender} of user ${process.getuid!()} says`)))
  t.false(existsSync(/ (\S+)\/demo\.sock/.exec(lines.join('\n'))![1]!))
  t.false(existsSync(join(tmpdir(), `passfd-letter-${sender}.txt`)))
})

test('receiver and sender, by hand', async t => {
  const path = socketPath()
  const receiver = example('receiver', path)
  t.is(await receiver.line(), `receiver: process ${receiver.child.pid} waits at ${path}`)
  const sender = example('sender', path)
  t.regex(await receiver.line(), new RegExp(`^receiver: process ${sender.child.pid} of user`))
  t.is(await receiver.line(), 'receiver: its file says "I was deleted before you opened me."')
  const [, url] = /mine: (http:.*)/.exec(await receiver.line())!
  await ends(t, sender)
  t.is(await (await fetch(url!)).text(), `You have reached process ${receiver.child.pid}.`)
  await ends(t, receiver)
  t.false(existsSync(path))
})

const hasMsgpack = spawnSync(python, ['-c', 'import msgpack']).status === 0

testIf(hasMsgpack ? undefined : 'no python3-msgpack', 'the receiver and a peer in Python', async t => {
  const path = socketPath()
  const receiver = example('receiver', path)
  await receiver.line()
  const peer = start(python, [join(root, 'examples/python/peer.py'), path])
  t.regex(await peer.line(), new RegExp(`^python: process ${peer.child.pid} talks to passfd/`))
  t.regex(
    await receiver.line(),
    new RegExp(`^receiver: process ${peer.child.pid} of user .* says "Please read this to me."`)
  )
  t.is(await receiver.line(), 'receiver: its file says "Written by Python."')
  t.is(await peer.line(), 'python: what came back says "WRITTEN BY PYTHON."')
  t.is(await peer.line(), 'python: both have said goodbye')
  await ends(t, peer)
  await ends(t, receiver)
})

test('notify hears what a service says, and keeps its file', async t => {
  const service = join(root, 'test/fixtures/notify.py')
  const notify = example('notify', python, service)
  const first = await notify.line()
  const [, pid] = /^notify: process (\d+) is ready$/.exec(first) ?? []
  t.true(Number(pid) > 0 && Number(pid) !== notify.child.pid, first)
  t.is(await notify.line(), 'notify: its status is "from Python"')
  t.is(await notify.line(), 'notify: keeps "host": file')
  t.is(await notify.line(), `notify: ${python} ended with 0, 1 files are kept`)
  await ends(t, notify)
})

test('the Python peer fits on a page', t => {
  t.true(readFileSync(join(root, 'examples/python/peer.py'), 'utf8').split('\n').length <= 80)
})

function example(name: string, ...args: string[]): Running {
  return start(process.execPath, ['--import', import.meta.resolve('tsx'), join(root, `examples/${name}.ts`), ...args])
}

async function ends(t: ExecutionContext, running: Running): Promise<void> {
  t.deepEqual(await running.exit, { code: 0, signal: null, stderr: '' })
}

/** Without what differs from run to run. */
function general(line: string): string {
  return line.replace(/\S+\/demo\.sock|\d+/g, '…')
}
