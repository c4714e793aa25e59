/** Answers that can't be sent: what becomes of the descriptors that a serve handler has given away in them. */
import { setImmediate as turn } from 'node:timers/promises'
import { closeUnused } from '../../src/channel/find-descriptors.ts'
import { Connection, Descriptor, type Message, type Returned } from '../../src/index.ts'
import { closeAll, connected, file } from '../helpers/channels.ts'
import { frame, rawPair, request } from '../helpers/raw-peer.ts'
import { leaked, openDescriptors, test, until } from '../helpers/test.ts'

interface Given {
  value: unknown
  /** Those that are to come back, in any order. */
  back: Descriptor[]
  connections?: Connection[]
  /** Those that stay the program's. */
  kept?: Descriptor[]
}

function connection(): [Connection, Descriptor] {
  const [end, other] = Descriptor.socketpair()
  return [new Connection(end), other]
}

class Job {
  file: Descriptor
  constructor(file: Descriptor) {
    this.file = file
  }
}

/** By the code of the fault. */
const answers: Record<string, [string, (message: Message<any>) => Given][]> = {
  TOO_MANY_DESCRIPTORS: [
    [
      'two where one is allowed',
      () => {
        const back = [file(), file()]
        return { value: { listener: back[0], connection: back[1] }, back }
      }
    ],
    [
      'a Descriptor and a Connection',
      () => {
        const [inside, other] = connection()
        const back = [file()]
        return { value: [inside, back[0]], back, connections: [inside], kept: [other] }
      }
    ],
    [
      'two that a getter has made',
      () => {
        const back: Descriptor[] = []
        const make = () => back[back.push(file()) - 1]
        return {
          value: {
            get one() {
              return make()
            },
            get two() {
              return make()
            }
          },
          back
        }
      }
    ],
    [
      'one of the request, and one more',
      ({ value }) => {
        const back = [value.file, file()]
        return { value: back, back }
      }
    ],
    [
      'in an object of a class and a null object',
      () => {
        const back = [file(), file()]
        return { value: [new Job(back[0]!), Object.assign(Object.create(null), { file: back[1] })], back }
      }
    ],
    [
      '253',
      () => {
        const back = Array.from({ length: 253 }, file)
        return { value: new Set(back), back }
      }
    ]
  ],
  ENCODE: [
    [
      'a function first',
      () => {
        const back = [file(), file()]
        return { value: { no: () => {}, file: back[0], deep: [new Map([['key', { file: back[1] }]])] }, back }
      }
    ],
    [
      'a function last',
      () => {
        const back = [file()]
        return { value: { file: back[0], no: () => {} }, back }
      }
    ],
    [
      'a cycle',
      () => {
        const back = [file()]
        const value: any = { list: [], file: back[0] }
        value.list.push(value)
        return { value, back }
      }
    ],
    [
      'a getter that throws',
      () => {
        const back = [file(), file()]
        return {
          value: {
            one: back[0],
            get no() {
              throw new Error('no')
            },
            two: back[1]
          },
          back
        }
      }
    ],
    [
      'a getter that throws after one that has opened a file',
      () => {
        const back: Descriptor[] = []
        return {
          value: {
            get one() {
              return back[back.push(file()) - 1]
            },
            get no() {
              throw Symbol('no')
            }
          },
          back
        }
      }
    ],
    [
      'a Proxy that throws, beside it',
      () => {
        const back = [file()]
        const trap = () => {
          throw new Error('no')
        }
        const proxy = new Proxy({}, { get: trap, ownKeys: trap, getPrototypeOf: trap, getOwnPropertyDescriptor: trap })
        return { value: [proxy, back[0]], back }
      }
    ],
    [
      'inside of a Proxy',
      () => {
        const back = [file()]
        return { value: new Proxy({ file: back[0], no: () => {} }, {}), back }
      }
    ],
    [
      'a Proxy of Proxies without end',
      () => {
        const back = [file()]
        const endless = (): object =>
          new Proxy(
            {},
            {
              ownKeys: () => ['next'],
              getOwnPropertyDescriptor: () => ({ value: endless(), enumerable: true, configurable: true })
            }
          )
        return { value: [() => {}, endless(), back[0]], back: back }
      }
    ],
    [
      'nested too deep',
      () => {
        const back = [file()]
        let value: unknown = back[0]
        for (let i = 0; i < 20000; i++) value = [value]
        return { value, back }
      }
    ],
    [
      'a socket pair’s stream beside it',
      () => {
        const [end, other] = Descriptor.socketpair()
        const socket = end.toSocket()
        socket.on('error', () => {})
        other.close()
        const back = [file()]
        return { value: { socket, file: back[0] }, back }
      }
    ],
    [
      'an object with toJSON, whose fields are its own affair',
      () => {
        const own = file()
        const back = [file()]
        class Holder {
          own = own
          toJSON() {
            return { told: true }
          }
        }
        return { value: [new Holder(), back[0], () => {}], back, kept: [own] }
      }
    ]
  ],
  DESCRIPTOR_REPEATED: [
    [
      'one twice, and others',
      () => {
        const back = [file(), file()]
        return { value: { one: back[0], again: back[0], two: back[1] }, back }
      }
    ],
    [
      'a Connection twice',
      () => {
        const [inside, other] = connection()
        return { value: [inside, inside], back: [], connections: [inside], kept: [other] }
      }
    ]
  ],
  DESCRIPTOR_CLOSED: [
    [
      'a closed one among good ones',
      () => {
        const closed = file()
        closed.close()
        const back = [file(), file()]
        return { value: [back[0], closed, { file: back[1] }], back }
      }
    ]
  ],
  DESCRIPTOR_DETACHED: [
    [
      'a detached one among good ones',
      () => {
        const gone = file()
        Descriptor.adopt(gone.detach()).close()
        const back = [file()]
        return { value: [gone, back[0]], back }
      }
    ]
  ],
  CONNECTION_GONE: [
    [
      'a Connection that was used up',
      () => {
        const [inside, other] = connection()
        inside.close()
        const back = [file()]
        return { value: { inside, file: back[0] }, back, kept: [other] }
      }
    ]
  ],
  MESSAGE_TOO_LARGE: [
    [
      'with a large body',
      () => {
        const back = [file()]
        return { value: { bytes: Buffer.alloc(2 ** 21), file: back[0] }, back }
      }
    ]
  ]
}

const all = Object.entries(answers).flatMap(([code, list]) => list.map(([what, make]) => ({ code, what, make })))

for (const { code, what, make } of all)
  test(`an answer that can’t be sent comes back: ${code}, ${what}`, async t => {
    const [left, right] = await connected()
    const told: [string, unknown][] = []
    const returned: Returned<any>[] = []
    let given: Given | undefined
    right.on('returned', back => {
      returned.push(back)
      t.true(given!.back.every(({ closed }) => !closed) && back.descriptors.every(({ closed }) => !closed))
      t.true((given!.connections ?? []).every(({ closed }) => !closed))
      if (returned.length === 2) back.claim()
    })
    right.serve(
      async message => {
        if (message.value.later) await turn()
        given = make(message)
        return given.value
      },
      { onError: (error: any, message) => told.push([error.code, message.value.n]) }
    )
    for (const n of [1, 2]) {
      const error: any = await t.throwsAsync(left.request({ n, later: n === 1, file: file() }), {
        code: 'ERR_PASSFD_REMOTE'
      })
      t.is(error.remote.code, `ERR_PASSFD_${code}`)
      if (code === 'TOO_MANY_DESCRIPTORS') {
        const count = given!.back.length + (given!.connections?.length ?? 0)
        t.true(error.message.includes(`request(value, { descriptors: ${count} })`), error.message)
      }
      const { back, connections = [], kept = [] } = given!
      await until(() => told.length === n, 'onError')
      t.deepEqual(told.at(-1), [`ERR_PASSFD_${code}`, n])
      t.is(returned.length, back.length + connections.length > 0 ? n : 0)
      t.is(returned.at(-1)!.state, 'unsent')
      t.is(returned.at(-1)!.value, given!.value)
      t.deepEqual(new Set(returned.at(-1)!.descriptors), new Set(back))
      // Unclaimed they are closed now, claimed they are not
      for (const each of [...back, ...connections]) t.is(each.closed, n === 1)
      for (const each of [...back, ...connections]) each[Symbol.dispose]()
      for (const each of kept) {
        t.false(each.closed)
        each.close()
      }
    }
    await closeAll(left, right)
    t.is(await right.closed, undefined)
  })

test('an answer that can’t be sent, without listeners: its descriptors are closed, the channel goes on', async t => {
  const [left, right] = await connected()
  const before = openDescriptors()
  let make: (message: Message<any>) => Given
  let given: Given | undefined
  right.serve(message => {
    given = make(message)
    return given.value
  })
  for (const each of all) {
    make = each.make
    const error: any = await t.throwsAsync(left.request({ file: file() }), { code: 'ERR_PASSFD_REMOTE' })
    t.is(error.remote.code, `ERR_PASSFD_${each.code}`, each.what)
    t.true(
      [...given!.back, ...(given!.connections ?? [])].every(({ closed }) => closed),
      each.what
    )
    for (const kept of given!.kept ?? []) kept.close()
  }
  t.deepEqual(await leaked(before), [])
  await closeAll(left, right)
  t.is(await right.closed, undefined)
})

test('message.reply() by hand throws, and its descriptors stay the program’s', async t => {
  const [left, right] = await connected()
  right.on('returned', () => t.fail('nothing has moved'))
  const told: unknown[] = []
  right.serve(
    message => {
      const mine = [file(), file()]
      const error: any = t.throws(() => message.reply(mine), { code: 'ERR_PASSFD_TOO_MANY_DESCRIPTORS' })
      t.regex(error.message, /descriptors: 2/)
      t.true(mine.every(({ closed }) => !closed))
      for (const each of mine) each.close()
      return 'instead'
    },
    { onError: error => told.push(error) }
  )
  t.is(await left.request(1), 'instead')
  t.deepEqual(told, [])
  await closeAll(left, right)
})

test('a result that nobody asked for stays the program’s: of a plain message, and of a request that was answered', async t => {
  const [left, right] = await connected()
  const made: Descriptor[] = []
  right.on('returned', () => t.fail('nothing was sent'))
  right.serve(message => {
    if (message.isRequest) message.reply('by hand')
    const mine = [file(), file()]
    made.push(...mine)
    return { mine, no: () => {} }
  })
  left.send('message')
  t.is(await left.request('request'), 'by hand')
  t.is(made.length, 4)
  for (const each of made) {
    t.false(each.closed)
    each.close()
  }
  await closeAll(left, right)
})

for (const [what, sendable] of [
  ['that could be sent', true],
  ['that could not', false]
] as const)
  test(`an answer ${what}, after the channel has ended or the peer has cancelled, comes back`, async t => {
    for (const end of ['ended', 'cancelled'] as const) {
      const { channel, peer } = await rawPair()
      const told: string[] = []
      const states: string[] = []
      channel.on('returned', ({ state, descriptors }) => states.push(`${state} ${descriptors.length}`))
      let answer = () => {}
      const asked = new Promise<Message>(resolve => {
        channel.serve(
          message => {
            resolve(message)
            return new Promise(done => {
              answer = () => done(sendable ? [file()] : [file(), file(), () => {}])
            })
          },
          { onError: (error: any) => told.push(error.code) }
        )
      })
      peer.send(request(7, 'question'))
      const { signal } = await asked
      if (end === 'ended') channel.destroy()
      else peer.send(frame(5, undefined, { id: 7 }))
      await until(() => signal.aborted, 'the news')
      answer()
      await until(() => states.length === 1, 'the return')
      t.deepEqual(states, [sendable ? `${end === 'ended' ? 'unsent' : 'refused'} 1` : 'unsent 2'])
      await turn()
      t.deepEqual(told, sendable ? [] : ['ERR_PASSFD_ENCODE'])
      if (end === 'cancelled') t.is((await peer.next(4)).id, 7)
      channel.destroy()
      await channel.closed
      peer.close()
    }
  })

test('an answer that the requester’s schema refuses: it hears so, and its descriptors are closed', async t => {
  const [left, right] = await connected()
  right.serve(() => ({ file: file() }))
  const refuses = { '~standard': { version: 1, vendor: 'test', validate: () => ({ issues: [{ message: 'no' }] }) } }
  await t.throwsAsync(left.request(1, { schema: refuses as never }), { code: 'ERR_PASSFD_SCHEMA' })
  await closeAll(left, right)
})

test('onError that throws for an answer that can’t be sent disturbs nothing', async t => {
  const [left, right] = await connected()
  const uncaught: unknown[] = []
  const listeners = process.listeners('uncaughtException')
  process.removeAllListeners('uncaughtException')
  process.once('uncaughtException', error => uncaught.push(error))
  right.serve(({ value }) => (value === 1 ? [file(), () => {}] : 'fine'), {
    onError() {
      throw new Error('mine')
    }
  })
  await t.throwsAsync(left.request(1), { code: 'ERR_PASSFD_REMOTE' })
  await until(() => uncaught.length === 1, 'the exception, which is the program’s own')
  for (const listener of listeners) process.on('uncaughtException', listener)
  t.is(await left.request(2), 'fine')
  await closeAll(left, right)
})

test('closeUnused: closes what an answer holds, wherever that is, but not what is used', async t => {
  const all = Array.from({ length: 8 }, file)
  const [inside, other] = connection()
  const shared = { again: all[0] }
  const answer = {
    descriptors: [all[0], all[1], null, [[all[2]]]],
    toJSON: { looks: 'as if the encoder would not look here', one: all[3] },
    map: new Map<unknown, unknown>([
      ['value', all[4]],
      [{ key: all[5] }, 1]
    ]),
    set: new Set([all[6], shared, inside]),
    bytes: Buffer.alloc(3)
  }
  Object.assign(shared, { answer })
  closeUnused(answer, [all[1]!, all[7]!])
  t.deepEqual(
    all.map(({ closed }) => closed),
    [true, false, true, true, true, true, true, false]
  )
  t.true(inside.closed)
  for (const one of [all[1]!, all[7]!, other]) one.close()
  for (const nothing of [undefined, null, 3, 'text', [], all]) closeUnused(nothing)
})
