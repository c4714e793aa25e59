/** What a store gives to its successor. */
import { Descriptor } from '../../src/index.ts'
import { readState, type State } from '../../src/store/state.ts'
import { codeOf } from '../helpers/bodies.ts'
import { test } from '../helpers/test.ts'

test('a successor reads a state, and refuses one with a wrong field before it says that it is ready', t => {
  const descriptors = Descriptor.socketpair()
  const client = Buffer.alloc(16)
  const lease = { client, id: 3, pid: 4 }
  const entry = { entry: 1, name: 'a', owner: 0, uid: 0, pid: 1, since: 1, poll: false, descriptors, lease }
  const one = { client, uid: 0, seen: 1, done: [[2, 'x']] }
  const state = { version: 1, epoch: client, next: 5, entries: [entry], clients: [one] }
  t.is(readState(state as unknown as State), state as unknown as State)
  const wrong = [
    undefined,
    { ...state, version: 2 },
    ...[
      null,
      { ...entry, name: '' },
      { ...entry, descriptors: [5] },
      { ...entry, value: 'text' },
      { ...entry, deadline: 'soon' },
      { ...entry, lease: null },
      { ...entry, lease: { pid: 4 } },
      { ...entry, lease: { client } }
    ].map(given => ({ ...state, entries: [given] })),
    ...[
      null,
      { ...one, client: 'text' },
      { ...one, uid: undefined },
      { ...one, seen: -0.5 },
      { ...one, done: [5] },
      { ...one, done: [['a', 1]] }
    ].map(given => ({ ...state, clients: [given] }))
  ]
  for (const [at, given] of wrong.entries())
    t.is(
      codeOf(() => readState(given as unknown as State)),
      'ERR_PASSFD_STORE_REQUEST',
      `number ${at}`
    )
  for (const descriptor of descriptors) descriptor.close()
})
