/** A program's objects that throw when they are looked at, at every place where passfd looks: nothing escapes, and nothing is left. */
import { setImmediate as turn } from 'node:timers/promises'
import { inspect } from 'node:util'
import { runInNewContext } from 'node:vm'
import { type Channel, connect, type Descriptor, listen, type Message, PassfdError } from '../../src/index.ts'
import { closeAll, connected, file } from '../helpers/channels.ts'
import { isFull } from '../helpers/full.ts'
import { socketPath } from '../helpers/path.ts'
import { test, until } from '../helpers/test.ts'

const no = (): never => {
  throw new Error('looked at')
}

/** An Error with an accessor for a name, which throws, gives something odd, or throws the second time only. */
function withGetter(name: string, get: () => unknown, Class: new (text: string) => Error = Error): Error {
  return Object.defineProperty(new Class('fine'), name, { get, enumerable: true })
}

function onceOnly(value: unknown): () => unknown {
  let calls = 0
  return () => (calls++ === 0 ? value : no())
}

const TRAPS = ['get', 'has', 'getPrototypeOf', 'ownKeys', 'getOwnPropertyDescriptor', 'isExtensible', 'set'] as const
const hostileProxy = (target: object = {}): object =>
  new Proxy(target, Object.fromEntries(TRAPS.map(trap => [trap, no])))

function revoked(): object {
  const { proxy, revoke } = Proxy.revocable({}, {})
  revoke()
  return proxy
}

/** What can be thrown, rejected with, given as a reason. */
const thrown: Record<string, () => unknown> = {
  'a Proxy that throws': () => hostileProxy(),
  'a Proxy of an Error that throws': () => hostileProxy(new Error('inside')),
  'a revoked Proxy': revoked,
  'an object without a prototype': () => Object.create(null),
  'a Symbol': () => Symbol('thrown'),
  'a BigInt': () => 1n,
  undefined: () => undefined,
  null: () => null,
  'a function': () => no,
  'an object whose toString throws': () => ({ toString: no, [Symbol.toPrimitive]: no }),
  'an object whose toString gives no text': () => ({ toString: () => ({}), valueOf: () => ({}) }),
  'an error of another realm': () =>
    runInNewContext('Object.defineProperty(new Error("far"), "code", { get() { throw 1 } })'),
  'an AggregateError of such': () => new AggregateError([hostileProxy()], 'many'),
  'an Error whose cause throws': () => new Error('outer', { cause: hostileProxy() }),
  'a thenable whose then throws': () => Object.defineProperty({}, 'then', { get: no }),
  'a passfd error of the program’s': () =>
    new (class extends PassfdError {
      override get message(): string {
        return no()
      }
    })('ENCODE', { detail: 'mine' })
}
for (const name of ['message', 'name', 'code', 'data', 'stack', 'cause', 'constructor', 'then', 'toJSON']) {
  thrown[`an Error whose ${name} throws`] = () => withGetter(name, no)
  thrown[`an Error whose ${name} can be asked for once`] = () => withGetter(name, onceOnly('once'))
  thrown[`an Error whose ${name} is a Proxy that throws`] = () => withGetter(name, () => hostileProxy())
  thrown[`a TypeError whose ${name} is a Symbol`] = () => withGetter(name, () => Symbol('odd'), TypeError)
}
thrown['an Error whose data has a getter that throws'] = () => Object.assign(new Error('x'), { data: { get deep() { return no() } } }) // biome-ignore format: one line
thrown['an Error whose data has a cycle'] = () => {
  const data: unknown[] = []
  data.push(data)
  return Object.assign(new Error('x'), { data })
}

/** Listens to what escapes while `body` runs. */
async function nothingEscapes(body: () => Promise<void>): Promise<unknown[]> {
  const escaped: unknown[] = []
  const listener = (error: unknown): void => void escaped.push(error)
  const before = (['uncaughtException', 'unhandledRejection'] as const).map(name => ({
    name,
    listeners: process.listeners(name as 'uncaughtException')
  }))
  for (const { name } of before) {
    process.removeAllListeners(name)
    process.on(name as 'uncaughtException', listener)
  }
  try {
    await body()
    await turn()
    await turn()
  } finally {
    for (const { name, listeners } of before) {
      process.removeAllListeners(name)
      for (const each of listeners) process.on(name as 'uncaughtException', each)
    }
  }
  return escaped
}

const never = { '~standard': { version: 1, vendor: 'test', validate: no as (value: unknown) => unknown } }

function schemaThat(validate: (value: unknown) => unknown): any {
  return { ...never, '~standard': { ...never['~standard'], validate } }
}

/** Places where passfd meets such an object; each ends with a channel that still works, or has ended and said so. */
const places: Record<string, (make: () => unknown, late: boolean) => Promise<void>> = {
  async 'a handler of a request'(make, late) {
    const [left, right] = await connected()
    right.serve(message => {
      if (message.value === 'fine') return 'fine'
      if (late) return turn().then(() => Promise.reject(make()))
      throw make()
    })
    await rejects(left.request({ file: file() }), 'ERR_PASSFD_REMOTE')
    await works(left, right)
  },
  async 'a handler of a message, with onError'(make, late) {
    const [left, right] = await connected()
    let told = 0
    right.serve(
      message => {
        if (message.value === 'fine') return 'fine'
        if (late) return turn().then(() => Promise.reject(make()))
        throw make()
      },
      {
        onError(error) {
          if (!(typeof error === 'object' && error !== null)) throw new Error('no Error')
          told++
        }
      }
    )
    left.send({ file: file() })
    await until(() => told === 1, 'onError')
    await works(left, right)
  },
  async 'a handler of a message, without onError'(make, late) {
    const [left, right] = await connected()
    right.serve(() => {
      if (late) return turn().then(() => Promise.reject(make()))
      throw make()
    })
    left.send({ file: file() })
    if ((await right.closed) === undefined || (await left.closed) === undefined) throw new Error('no error')
  },
  async 'message.fail()'(make) {
    const [left, right] = await connected()
    right.serve(message => (message.value === 'fine' ? 'fine' : void message.fail(make() as Error)))
    await rejects(left.request({ file: file() }), 'ERR_PASSFD_REMOTE')
    await works(left, right)
  },
  async 'destroy()'(make) {
    const [left, right] = await connected()
    const pending = left.request(1)
    left.destroy(make() as Error)
    await rejects(pending, 'ERR_PASSFD_CLOSED')
    await left.closed
    if (((await right.closed) as PassfdError).code !== 'ERR_PASSFD_PEER') throw new Error('no last words')
  },
  async 'a getter of a value'(make) {
    const [left, right] = await connected()
    right.serve(() => 'fine')
    const mine = file()
    const value = { mine, get odd() { throw make() } } // biome-ignore format: one line
    for (const call of [() => left.send(value), () => left.request(value), () => left.send([{ toJSON() { throw make() } }])]) // biome-ignore format: one line
      try {
        void call()
        throw new Error('it was sent')
      } catch (error) {
        const { code } = error as PassfdError
        if (code !== 'ERR_PASSFD_ENCODE') throw error
      }
    mine.close()
    await works(left, right)
  },
  async 'a getter of an answer'(make) {
    const [left, right] = await connected()
    right.serve(message => (message.value === 'fine' ? 'fine' : { mine: file(), get odd() { throw make() } })) // biome-ignore format: one line
    await rejects(left.request(1), 'ERR_PASSFD_REMOTE')
    await works(left, right)
  },
  async 'a schema of messages'(make, late) {
    const validate = (value: unknown) => {
      if (value === 'fine') return { value }
      if (late) return Promise.reject(make())
      throw make()
    }
    const [left, right] = await connected({}, { schema: schemaThat(validate) })
    right.serve(() => 'fine')
    const error = await rejects(left.request({ file: file() }), 'ERR_PASSFD_REMOTE')
    if (error.remote?.code !== 'ERR_PASSFD_SCHEMA') throw error
    await works(left, right)
  },
  async 'a schema of a reply'(make, late) {
    const [left, right] = await connected()
    right.serve(({ value }) => (value === 'fine' ? 'fine' : { file: file() }))
    const validate = () => {
      if (late) return Promise.reject(make())
      throw make()
    }
    await rejects(left.request(1, { schema: schemaThat(validate) }), 'ERR_PASSFD_SCHEMA')
    await works(left, right)
  },
  async 'what a schema gives'(make, late) {
    const validate = () => (late ? Promise.resolve(make()) : make())
    const [left, right] = await connected()
    right.serve(({ value }) => (value === 'fine' ? 'fine' : {}))
    const reply = left.request<any>(1, { schema: schemaThat(validate) })
    await reply.catch(() => {})
    await works(left, right)
  },
  async 'the issues of a schema'(make, late) {
    const shapes = [() => make(), () => [make()], () => [{ message: make() }], () => [{ message: 'x', path: [make()] }], () => [{ message: 'x', path: make() }]] // biome-ignore format: one line
    for (const shape of shapes) {
      const outcome = () => ({ issues: shape() })
      const [left, right] = await connected(
        {},
        { schema: schemaThat(value => (value === 'fine' ? { value } : late ? Promise.resolve(outcome()) : outcome())) }
      )
      right.serve(() => 'fine')
      await left.request({ file: file() }).catch(() => {})
      await works(left, right)
    }
  },
  async 'authorize()'(make, late) {
    const authorize = (): boolean | Promise<boolean> => {
      if (late) return Promise.reject(make())
      throw make()
    }
    const server = await listen(socketPath(), { authorize })
    await rejects(connect(server.address), 'ERR_PASSFD_PEER')
    await rejects(connect(server.address, { authorize }), 'ERR_PASSFD_AUTHORIZE_FAILED')
    await server.close()
  },
  async 'the verdict of authorize()'(make, late) {
    const server = await listen(socketPath(), { authorize: () => (late ? Promise.resolve(make()) : make()) as never })
    const error: any = await connect(server.address).then(
      () => new Error('it was let in'),
      error => error
    )
    if (error.code !== 'ERR_PASSFD_PEER') throw error
    await server.close()
  },
  async 'the reason of a signal'(make, late) {
    const [left, right] = await connected()
    right.serve(({ value }) => (value === 'fine' ? 'fine' : new Promise(() => {})))
    const controller = new AbortController()
    if (!late) controller.abort(make())
    const mine = file()
    const request = left.request({ mine }, { signal: controller.signal }).catch(error => error)
    if (late) controller.abort(make())
    if (((await request) as Error).name !== 'AbortError') throw await request
    mine[Symbol.dispose]() // it has not moved if the signal was aborted before
    left.destroy()
    right.destroy()
    await Promise.all([left.closed, right.closed])
  },
  async 'what a handler returns'(make, late) {
    const [left, right] = await connected()
    right.serve(({ value }) => (value === 'fine' ? 'fine' : late ? turn().then(make) : make()))
    await left.request({ file: file() }).catch(error => {
      if (error.code !== 'ERR_PASSFD_REMOTE') throw error
    })
    await works(left, right)
  },
  async 'a promise of a handler’s, changed'(make, late) {
    const [left, right] = await connected()
    const change = (promise: Promise<unknown>): Promise<unknown> => {
      for (const name of ['then', 'constructor', 'catch', 'finally']) {
        const get = (): never => {
          throw make()
        }
        Object.defineProperty(promise, name, late ? { value: get } : { get })
      }
      return promise
    }
    right.serve(({ value }) => (value === 'fine' ? 'fine' : change(Promise.resolve('changed'))))
    await left.request({ file: file() }).catch(error => {
      if (error.code !== 'ERR_PASSFD_REMOTE') throw error
    })
    await works(left, right)
  }
}

async function rejects(promise: Promise<unknown>, code: string): Promise<PassfdError> {
  const error: any = await promise.then(
    () => new Error('it was resolved'),
    error => error
  )
  if (error?.code !== code) throw error
  return error
}

async function works(left: Channel<any, any>, right: Channel<any, any>): Promise<void> {
  if ((await left.request('fine')) !== 'fine') throw new Error('another answer')
  await closeAll(left, right)
  if ((await left.closed) !== undefined || (await right.closed) !== undefined) throw new Error('an error at the end')
}

for (const [place, run] of Object.entries(places))
  test(`hostile objects: ${place}`, async t => {
    for (const [index, [what, make]] of Object.entries(thrown).entries())
      for (const late of isFull ? [false, true] : [index % 2 === 1]) {
        const escaped = await nothingEscapes(async () => {
          await t.notThrowsAsync(run(make, late), `${what}${late ? ', late' : ''}`)
        })
        t.is(
          escaped.length,
          0,
          `${what}, ${late}: ${inspect(escaped.map(each => (each as Error)?.stack ?? typeof each))}`
        )
      }
  })

test('hostile options of serve() are read once, when it is called', async t => {
  const [left, right] = await connected()
  t.throws(() => right.serve(() => 1, { get concurrency(): number { return no() } })) // biome-ignore format: one line
  right.serve(
    ({ isRequest }) => {
      if (isRequest) return 'fine'
      throw new Error('told')
    },
    { concurrency: 2, get onError() { return once() as never } } // biome-ignore format: one line
  )
  left.send(1)
  await works(left, right)
  function once(): () => void {
    if (reads++ > 1) no()
    return () => {}
  }
})
let reads = 0

test('what a handler’s error holds stays the program’s; what the message has brought is closed', async t => {
  const [left, right] = await connected()
  const mine = file()
  let got: Message<any> | undefined
  right.serve(message => {
    got = message
    throw Object.assign(new Error('with a file'), { data: { mine } })
  })
  const error = await rejects(left.request({ file: file() }), 'ERR_PASSFD_REMOTE')
  t.is(error.remote?.data, undefined)
  t.true((got!.value.file as Descriptor).closed)
  t.false(mine.closed)
  mine.close()
  await closeAll(left, right)
})
