/** What comes back: descriptors that were moved and not taken. */
import { once } from 'node:events'
import { writeSync } from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import { type Channel, Descriptor, pair } from '../../src/index.ts'
import { codeError, file, files } from '../helpers/channels.ts'
import { startOnPair, stop } from '../helpers/child.ts'
import { temporaryPath } from '../helpers/path.ts'
import type { Running } from '../helpers/process.ts'
import { test } from '../helpers/test.ts'

// --- what comes back

test('unconfirmed and unsent: the peer was killed before it took them', async t => {
  const [channel, child] = await startOnPair('read-on-3', ['{"window":1}'])
  await stop(child)
  const path = temporaryPath()
  const first = await Descriptor.open(path, 'w+')
  const returned: any[] = []
  channel.on('returned', given => {
    t.true(given.descriptors.every((descriptor: Descriptor) => !descriptor.closed))
    returned.push(given)
    if (given.value !== 'dropped') given.claim()
  })
  const values = [{ first }, { second: file() }, { third: [file(), file()] }]
  for (const value of values) await channel.send(value)
  const dropped = file()
  await channel.send(dropped)
  t.true(first.closed)
  await turn()
  channel.prependOnceListener('close', () => t.is(returned.length, 4))
  child.child.kill('SIGKILL')
  t.is(((await channel.closed) as any).code, 'ERR_PASSFD_DISCONNECTED')
  t.deepEqual(
    returned.map(({ state, value, descriptors }) => [state, value, descriptors.length]),
    [
      ['unconfirmed', values[0], 1],
      ['unsent', values[1], 1],
      ['unsent', values[2], 2],
      ['unsent', dropped, 1]
    ]
  )
  // The very Descriptors, open again
  t.is(returned[0].value.first, first)
  t.is(first.kind, 'file')
  for (const { descriptors } of returned) for (const descriptor of descriptors) descriptor.close()
  await child.exit
})

/** A child that gives its request up when it can't have seen yet the answer that has left here. */
async function startCancellingLate(answer: () => Descriptor): Promise<[Channel<any, any>, Running]> {
  const { readable, writable } = Descriptor.pipe()
  const [channel, child] = await startOnPair('cancel-late', [], {}, readable.borrow())
  readable.close()
  channel.serve(() => {
    setImmediate(() => {
      writeSync(writable.borrow(), 'x')
      writable.close()
    })
    return answer()
  })
  return [channel, child]
}

test('refused: the answer to a request that was given up', async t => {
  const answer = file()
  const [channel, child] = await startCancellingLate(() => answer)
  channel.once('returned', given => given.claim())
  const [{ state, value, descriptors }] = await once(channel, 'returned')
  t.is(state, 'refused')
  t.is(value, answer)
  t.deepEqual(descriptors, [answer])
  t.false(answer.closed)
  answer.close()
  t.is(await child.line(), 'ABORT_ERR')
  t.like(await child.exit, { code: 0, stderr: '' })
  t.is(await channel.closed, undefined)
})

test('without a listener what comes back is closed', async t => {
  const mine = [file(), file(), file(), file()]
  const [refusing, first] = await startCancellingLate(() => mine[0]!)
  t.like(await first.exit, { code: 0, stderr: '' })
  const [channel, second] = await startOnPair('read-on-3', ['{"window":1}'])
  await stop(second)
  for (const descriptor of mine.slice(1)) await channel.send(descriptor)
  await turn()
  second.child.kill('SIGKILL')
  await Promise.all([refusing.closed, channel.closed, second.exit])
  // That nothing is open any more is seen after each test
  for (const descriptor of mine) t.throws(() => descriptor.borrow(), codeError('DESCRIPTOR_MOVED'))
})

test('what no listener claimed is closed when the listeners have returned', async t => {
  const [channel, end] = pair<any, any>()
  const mine = files(2)
  channel.on('returned', ({ descriptors }) => void descriptors[0]!.claim())
  await channel.send(mine)
  end.close()
  await channel.closed
  t.false(mine[0]!.closed)
  const error = t.throws(() => mine[1]!.borrow(), codeError('DESCRIPTOR_UNCLAIMED'))
  t.regex(error.message, /came in a returned message .* was closed when the 'returned' listeners returned/)
  mine[0]!.close()
})
