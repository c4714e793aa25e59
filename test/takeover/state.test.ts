/** The state of a predecessor: in parts of a message's size, with copies for the successor. */
import { PassfdError } from '../../src/base/errors.ts'
import { Connection } from '../../src/connection/connection.ts'
import { Descriptor } from '../../src/descriptor/descriptor.ts'
import { closeState, GivenState, LockedState } from '../../src/takeover/state.ts'
import { test } from '../helpers/test.ts'

function pipe(): Descriptor {
  const { readable, writable } = Descriptor.pipe()
  writable.close()
  return readable
}

/** What a successor gets: the channel moves the parts' descriptors. */
function sent(given: GivenState): LockedState {
  return new LockedState(given.parts.map(({ bytes, descriptors }) => ({ bytes: Buffer.from(bytes), descriptors })))
}

test('a state is cut into parts of at most 1 MiB and 253 descriptors', t => {
  const first = pipe()
  const pipes = [first, ...Array.from({ length: 599 }, () => first.dup())]
  for (const [value, parts] of [
    [undefined, 1],
    [Buffer.alloc(1_048_576 - 5), 1],
    [Buffer.alloc(1_048_577), 2],
    [Buffer.alloc(4_000_000, 'x'), 4],
    [{ pipes }, 3],
    [{ pipes: pipes.slice(0, 253) }, 1],
    [{ pipes: pipes.slice(0, 254), bytes: Buffer.alloc(3_000_000) }, 3]
  ] as const) {
    const given = new GivenState(value)
    t.is(given.parts.length, parts)
    t.true(given.parts.every(({ bytes, descriptors }) => bytes.length <= 1_048_576 && descriptors.length <= 253))
    const state = sent(given)
    if (Buffer.isBuffer(value)) t.true(value.equals(state.value as Buffer))
    state.close()
    t.true(pipes.every(({ closed }) => !closed))
  }
  new GivenState({ pipes }).parts.forEach(({ descriptors }) => {
    for (const descriptor of descriptors) descriptor.close()
  })
  closeState({ pipes })
  t.true(pipes.every(({ closed }) => closed))
})

test('a state that has come can be looked at; after unlock() it is the program’s, after close() it is nobody’s', t => {
  const [left, right] = Descriptor.socketpair()
  const connection = new Connection(left, Buffer.from('head'))
  const value = { connection, list: [pipe()] }
  const given = new GivenState(value)
  const state = sent(given)
  const copy = state.value as typeof value
  t.true(copy.connection.closed)
  t.is(copy.list[0]!.kind, 'pipe')
  t.is(`${copy.connection.head}`, 'head')
  t.throws(() => copy.connection.toSocket(), { code: 'ERR_PASSFD_TAKEOVER_NOT_READY' })
  t.throws(() => copy.list[0]!.dup(), { code: 'ERR_PASSFD_TAKEOVER_NOT_READY' })
  state.unlock()
  given.close()
  t.true(connection.closed)
  t.false(copy.connection.closed)
  t.is(`${copy.connection.head}`, 'head')
  const again = new GivenState(copy)
  const other = sent(again)
  other.close()
  t.throws(() => (other.value as typeof value).list[0]!.dup(), { code: 'ERR_PASSFD_DESCRIPTOR_CLOSED' })
  again.close()
  t.true(copy.connection.closed)
  right.close()
})

test('a state that can’t be encoded or decoded leaves nothing open', t => {
  const descriptor = pipe()
  t.throws(() => new GivenState({ descriptor, what: () => {} }), { code: 'ERR_PASSFD_ENCODE' })
  t.false(descriptor.closed)
  closeState({ descriptor, what: () => {} }) // it can't find what is in it
  const { parts } = new GivenState({ descriptor })
  const [{ bytes, descriptors }] = parts as [(typeof parts)[0]]
  t.throws(() => new LockedState([{ bytes: bytes.subarray(1), descriptors: [...descriptors] }]), {
    instanceOf: PassfdError
  })
  t.true(descriptors.every(({ closed }) => closed))
  const extra = [pipe(), pipe()]
  t.throws(() => new LockedState([{ bytes, descriptors: extra }]), { instanceOf: PassfdError })
  t.true(extra.every(({ closed }) => closed))
  descriptor.close()
})
