/** The shim's `receivePlaced`: which byte descriptors came with. */
import { closeSync, openSync } from 'node:fs'
import { MESSAGE_FIRST, MESSAGE_PLACE, native, PLACED, RESULT_DESCRIPTORS, RESULT_FLAGS } from '../../src/os/native.ts'
import { identity, isCloseOnExec } from '../helpers/facts.ts'
import { test } from '../helpers/test.ts'

const EAGAIN = -11
const EINVAL = -22
const ROOM = 65536
const bytes = Buffer.alloc(ROOM)
const results = new Int32Array(MESSAGE_FIRST + 2 * 253)

interface Pair {
  left: number
  right: number
  end(): void
}

function pair(): Pair {
  const ends = new Int32Array(2)
  native.socketpair(1, ends)
  const [left, right] = ends as unknown as [number, number]
  return { left, right, end: () => native.closeMany(ends, 0, 2) }
}

function send(to: number, text: string | Buffer, ...fds: number[]): void {
  const data = Buffer.from(text as string)
  const sent = native.send(to, data, 0, data.length, Int32Array.from(fds), 0, fds.length)
  if (sent !== data.length) throw new Error(`sent ${sent} of ${data.length}`)
}

/** One read: its text, how many descriptors, and where. They are closed. */
function receive(from: number, room = ROOM): { text: string; count: number; place: number } | number {
  const got = native.receivePlaced(from, bytes, 0, room, results)
  if (got < 0) return got
  const count = results[RESULT_DESCRIPTORS]!
  native.closeMany(results, MESSAGE_FIRST, count)
  return { text: bytes.toString('latin1', 0, got), count, place: results[MESSAGE_PLACE]! }
}

test('trap 01: bytes that came before are told from the one that descriptors came with', t => {
  const { left, right, end } = pair()
  send(left, 'abc')
  send(left, 'def', 0)
  // Two writes, which a plain recvmsg gives as one read of 'abcdef'
  const { text, count, place } = receive(right) as { text: string; count: number; place: number }
  t.is(count, 1)
  t.is(place, 3)
  t.is(text, 'abcd')
  t.deepEqual(receive(right), { text: 'ef', count: 0, place: 0 })
  t.is(receive(right), EAGAIN)
  end()
})

test('trap 02: what is read in parts keeps its descriptors apart from those of the next write', t => {
  const { left, right, end } = pair()
  send(left, 'abcdef', 0)
  send(left, 'ghi', 0, 1)
  const reads = []
  for (let read = receive(right, 2); typeof read === 'object'; read = receive(right, 2)) reads.push(read)
  let at = 0
  const places = reads.flatMap(({ text, count, place }) => {
    const found = count > 0 ? [[at + place, count]] : []
    at += text.length
    return found
  })
  t.is(reads.map(({ text }) => text).join(''), 'abcdefghi')
  t.deepEqual(places, [
    [0, 1],
    [6, 2]
  ])
  end()
})

test(`the place is exact behind up to ${PLACED - 1} bytes, and a lower bound behind more`, t => {
  for (const before of [1, PLACED - 1, PLACED, PLACED + 1, PLACED + 500]) {
    const { left, right, end } = pair()
    send(left, Buffer.alloc(before, '.'))
    send(left, 'X', 0)
    let at = 0
    for (;;) {
      const read = receive(right) as { text: string; count: number; place: number }
      if (read.count > 0) {
        if (before < PLACED) t.is(at + read.place, before)
        else t.true(at + read.place <= before && at + read.place >= PLACED, `${before}: ${at + read.place}`)
        t.is(read.text.length + at, before + 1, 'nothing of what follows is taken with it')
        break
      }
      at += read.text.length
    }
    end()
  }
})

test('the descriptors are ours: close-on-exec, held, of the same file', t => {
  const { left, right, end } = pair()
  const file = openSync('/dev/null', 'r')
  const held = native.held()
  send(left, 'x', file)
  t.is(native.receivePlaced(right, bytes, 0, ROOM, results), 1)
  const fd = results[MESSAGE_FIRST]!
  t.is(results[RESULT_FLAGS], 0)
  t.true(isCloseOnExec(fd))
  t.is(identity(fd), identity(file))
  t.is(native.held(), held + 1)
  native.close(fd)
  closeSync(file)
  end()
})

test('bytes go where they are wanted, and not beyond; the end is 0', t => {
  const { left, right, end } = pair()
  bytes.fill('-', 0, 12)
  send(left, 'abcdef')
  t.is(native.receivePlaced(right, bytes, 4, 8, results), 4)
  t.is(bytes.toString('latin1', 0, 12), '----abcd----')
  t.is(native.receivePlaced(right, bytes, 0, 12, results), 2)
  t.is(native.receivePlaced(right, bytes, 0, 12, results), EAGAIN)
  native.shutdown(left, 1)
  t.is(native.receivePlaced(right, bytes, 0, 12, results), 0)
  t.is(native.receivePlaced(right, bytes, 0, 12, new Int32Array(10)), EINVAL, 'results are too small')
  end()
})

test('253 descriptors behind plain bytes', t => {
  const { left, right, end } = pair()
  send(left, 'ab')
  send(left, 'c', ...Array(253).fill(0))
  t.deepEqual(receive(right), { text: 'abc', count: 253, place: 2 })
  end()
})
