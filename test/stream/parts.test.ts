/** Bytes in parts that begin where descriptors came. */
import { setImmediate as turn } from 'node:timers/promises'
import { native } from '../../src/os/native.ts'
import { file } from '../helpers/channels.ts'
import { close, destroyed, streamAndNumber, streamPair, write } from '../helpers/streams.ts'
import { test, until } from '../helpers/test.ts'

test('withDescriptors: parts that begin where descriptors came', async t => {
  const [stream, peer] = streamAndNumber()
  const parts = stream.withDescriptors()
  write(peer, 'abc')
  write(peer, 'def', 0)
  write(peer, 'ghi')
  write(peer, 'jkl', 1, 2)
  native.shutdown(peer, 1)
  const seen: [string, number][] = []
  for await (const { bytes, descriptors } of parts) {
    seen.push([String(bytes), descriptors.length])
    for (const descriptor of descriptors) descriptor.close()
  }
  const joined = seen.reduce<[string, number][]>((all, [text, count]) => {
    if (count > 0 || all.length === 0) all.push([text, count])
    else all.at(-1)![0] += text
    return all
  }, [])
  t.deepEqual(joined, [
    ['abc', 0],
    ['defghi', 1],
    ['jkl', 2]
  ])
  await until(() => stream.closed, 'close')
  close(peer)
})

test('withDescriptors: break puts back what was not read, and closes nothing', async t => {
  const [stream, peer] = streamAndNumber()
  write(peer, 'abc')
  write(peer, 'def', 0)
  write(peer, 'ghi', 0)
  const first = stream.withDescriptors()
  await until(() => stream.readableLength === 0 || stream.readableLength === 9, 'nothing')
  for await (const { bytes } of first) {
    t.is(String(bytes), 'abc')
    break
  }
  t.false(stream.destroyed)
  const rest: string[] = []
  native.shutdown(peer, 1)
  for await (const { bytes, descriptors } of stream.withDescriptors()) {
    rest.push(`${descriptors.length}:${bytes}`)
    for (const descriptor of descriptors) descriptor.close()
  }
  t.is(rest.join('').replaceAll('0:', ''), '1:def1:ghi')
  await until(() => stream.closed, 'close')
  close(peer)
})

test('withDescriptors: break in the last part of a stream that has ended loses nothing', async t => {
  const [stream, peer] = streamAndNumber({ keepDescriptors: true, allowHalfOpen: true })
  write(peer, 'abc')
  write(peer, 'def', 0)
  native.shutdown(peer, 1)
  stream.read(0)
  await until(() => stream.readableLength === 6, 'all bytes')
  for (let i = 0; i < 5; i++) await turn() // and the end
  for await (const { bytes } of stream.withDescriptors()) {
    t.is(String(bytes), 'abc')
    for (let i = 0; i < 5; i++) await turn()
    break
  }
  const rest: string[] = []
  for await (const { bytes, descriptors } of stream.withDescriptors()) {
    rest.push(`${descriptors.length}:${bytes}`)
    for (const descriptor of descriptors) descriptor.close()
  }
  t.deepEqual(rest, ['1:def'])
  await destroyed(stream)
  close(peer)
})

test('a slow reader of parts: many descriptors with few bytes wait at their sender', async t => {
  const [left, right] = streamPair({}, { maxDescriptors: 20 })
  for (let i = 0; i < 200; i++) left.writeWithDescriptors(`${i % 10}`, [file()])
  left.end()
  let count = 0
  for await (const { bytes, descriptors } of right.withDescriptors()) {
    t.is(`${descriptors.length}:${bytes}`, `1:${count++ % 10}`)
    descriptors[0]!.close()
    await turn()
  }
  t.is(count, 200)
  await destroyed(left, right)
})
