/** Trap 8: no descriptor that passfd received or made is inherited by a program that this process starts. */
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, readFileSync, writeFileSync } from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { SocketWire } from '../../src/channel/wire.ts'
import { Descriptor, listen, pair } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { closeAll, connected } from '../helpers/channels.ts'
import { times } from '../helpers/full.ts'
import { socketPath, temporaryPath } from '../helpers/path.ts'
import { rawPair, request, socketpair } from '../helpers/raw-peer.ts'
import { test, until } from '../helpers/test.ts'

const CHILDREN = times(8, 60)

/** What a program started now has open: a line of `ls -l` for each number, without what differs from one to the next. */
function inherited(): string[] {
  const { stdout } = spawnSync('ls', ['-l', '/proc/self/fd'], {
    stdio: ['ignore', 'pipe', 'inherit'],
    encoding: 'utf8'
  })
  return stdout
    .split('\n')
    .filter(line => line.includes(' -> '))
    .map(line => line.replace(/^.* (\d+ -> .*)$/, '$1').replace(/\/proc\/\d+|:\[\d+\]/, ''))
}

function newFile(): string {
  const path = temporaryPath()
  writeFileSync(path, '')
  return path
}

test('trap 08: what was received is not inherited, whoever keeps it', async t => {
  const before = inherited()
  t.true(before.length >= 4, 'the list shows what there is')
  const [left, right] = await connected()
  const kept: Descriptor[] = []
  let inside: string[] | undefined
  right.serve(({ value, descriptors }) => {
    inside = inherited()
    kept.push(...value.files.slice(1).map((descriptor: Descriptor) => descriptor.claim()))
    kept.push(descriptors[0]!.dup())
    return Descriptor.openSync(newFile())
  })
  const path = newFile()
  const files = Array.from({ length: 100 }, () => Descriptor.openSync(path))
  const answer = await left.request<Descriptor>({ files })
  t.deepEqual(inside, before, 'in the handler')
  t.is(kept.length, 100)
  t.deepEqual(inherited(), before, 'those claimed, copied, and answered with')
  const detached = kept.pop()!.detach()
  t.deepEqual(inherited(), before, 'one that was detached')
  closeSync(detached)
  for (const descriptor of [...kept, answer]) descriptor.close()
  await closeAll(left, right)
})

test('trap 08: what waits for its frame, or came back, is not inherited', async t => {
  const before = inherited()
  const { channel, peer } = await rawPair()
  const file = Descriptor.openSync(newFile())
  const held = native.held()
  peer.send(request(1, 'half of it').subarray(0, 8), Array(5).fill(file.borrow()))
  await until(() => native.held() === held + 5, 'the descriptors')
  t.deepEqual(inherited(), before)
  let back: Descriptor[] = []
  channel.on('returned', returned => {
    back = [...returned.claim().descriptors]
  })
  await channel.send([file.dup()])
  channel.destroy()
  t.is(back.length, 1)
  t.deepEqual(inherited(), before)
  for (const descriptor of [...back, file]) descriptor.close()
  peer.close()
})

test('trap 08: what passfd opens itself is not inherited', async t => {
  const before = inherited()
  const path = newFile()
  const { readable, writable } = Descriptor.pipe()
  const server = await listen(socketPath())
  const [channel, end] = pair()
  const made = [
    readable,
    writable,
    end,
    ...Descriptor.socketpair(),
    Descriptor.openSync(path),
    await Descriptor.open(path),
    Descriptor.from(0),
    await Descriptor.bind({ port: 0, host: '127.0.0.1' }),
    await Descriptor.bind({ type: 'udp4', port: 0, address: '127.0.0.1' }),
    await Descriptor.bind({ path: socketPath() })
  ]
  t.deepEqual(inherited(), before)
  for (const descriptor of made) descriptor.close()
  channel.destroy()
  await server.close()
})

test('trap 08: a descriptor is close-on-exec when the shim hands it out', async t => {
  const [left, right] = socketpair()
  const file = Descriptor.openSync('/dev/null')
  const wire = new SocketWire(right)
  const flags = new Promise<string>(resolve => {
    wire.start({
      onReadable: (_, fds, first) => {
        resolve(readFileSync(`/proc/self/fdinfo/${fds[first]}`, 'utf8'))
        native.close(fds[first]!)
        wire.end()
      },
      onWritable: () => {}
    })
  })
  native.send(left, Buffer.from('x'), 0, 1, Int32Array.of(file.borrow()), 0, 1)
  const [, octal] = /^flags:\s*(\d+)/m.exec(await flags)!
  t.is(Number.parseInt(octal!, 8) & 0o2000000, 0o2000000, 'O_CLOEXEC')
  file.close()
  native.close(left)
})

test('trap 08: children that start while descriptors arrive get none of them', async t => {
  const [left, right] = await connected()
  right.serve(() => {})
  const path = newFile()
  const file = Descriptor.openSync(path)
  const workerData = { path, children: CHILDREN }
  const worker = new Worker(new URL('../fixtures/spawner.mjs', import.meta.url), { workerData })
  const exit = once(worker, 'exit')
  let over = false
  const answer = once(worker, 'message').finally(() => {
    over = true
  })
  let count = 0
  for (; !over; count++) {
    await left.send(Array.from({ length: 253 }, () => file.dup()))
    await turn()
  }
  t.deepEqual(await answer, [[]])
  t.true(count > CHILDREN, 'there was traffic all along')
  await exit
  file.close()
  await closeAll(left, right)
})
