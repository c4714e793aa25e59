/** Calls into a channel from places where it is in the middle of something: all promises settle, and nothing is left. */
import diagnostics from 'node:diagnostics_channel'
import { setImmediate as turn } from 'node:timers/promises'
import type { Channel, Message } from '../../src/index.ts'
import { connected, file } from '../helpers/channels.ts'
import { leaked, openDescriptors, test, until } from '../helpers/test.ts'

type Call = (channel: Channel<any, any>, controller: AbortController, message: Message | undefined) => unknown

const calls: Record<string, Call> = {
  'send()': channel => channel.send('again'),
  'send() of a descriptor': channel => giveAway(given => channel.send({ given })),
  'request()': channel => channel.request('again', { timeout: 500 }).then(closeReply),
  'close()': channel => channel.close(),
  'destroy()': channel => channel.destroy(),
  'destroy(error)': channel => channel.destroy(new Error('mine')),
  'abort()': (_, controller) => controller.abort(),
  'serve()': channel => channel.serve(() => 'served'),
  'removeAllListeners()': channel => channel.removeAllListeners(),
  'reply()': (_channel, _controller, message) => message?.reply('nested'),
  'fail()': (_channel, _controller, message) => message?.fail(new Error('nested')),
  'claim()': (_channel, _controller, message) => void claimed.push(message?.claim()),
  'dispose()': (_channel, _controller, message) => message?.[Symbol.dispose]()
}

/** Places where the left end is in the middle of something, and such of the right one, which serves. */
const left = [
  'getter',
  'toJSON',
  'abort listener',
  'sent subscriber',
  'open subscriber',
  'close subscriber',
  'close listener',
  'closed continuation',
  'returned listener, at the end',
  'reply schema'
]
const right = [
  'schema',
  'late schema',
  'received subscriber',
  'message listener',
  'handler',
  'late handler',
  'abort listener of a handler',
  'answer',
  'onError',
  'returned listener'
]
const subscribed: Record<string, string> = {
  'sent subscriber': 'passfd:message:sent',
  'received subscriber': 'passfd:message:received',
  'open subscriber': 'passfd:channel:open',
  'close subscriber': 'passfd:channel:close'
}
/** A handler may wait for an abort that no frame tells after a goodbye. */
const limits = { closeTimeout: 100 }
const answers = ['reply()', 'fail()', 'dispose()']
const givenUp = ['abort listener of a handler', 'returned listener']
const atTheEnd = ['close subscriber', 'close listener', 'closed continuation', 'returned listener, at the end']

const claimed: (Message | undefined)[] = []
const timers = () => process.getActiveResourcesInfo().filter(each => each === 'Timeout').length

/** Misuse moves nothing: then the program closes what it wanted to give. */
function giveAway<T>(give: (descriptor: ReturnType<typeof file>) => T): T {
  const descriptor = file()
  try {
    return give(descriptor)
  } catch (error) {
    descriptor.close()
    throw error
  }
}

function closeReply(reply: any): void {
  reply?.mine?.close()
}

for (const place of [...left, ...right])
  test(`re-entrant calls: ${place}`, async t => {
    for (const [what, call] of Object.entries(calls)) {
      const before = openDescriptors()
      const timersBefore = timers()
      const pending: Promise<unknown>[] = []
      const controller = new AbortController()
      let message: Message | undefined
      let entered = false
      let target: Channel<any, any>
      const settle = (result: unknown): void => {
        if (result instanceof Promise) pending.push(result.catch(() => {}))
      }
      const enter = (at: string): string => {
        if (at !== place || entered || target === undefined) return ''
        entered = true
        try {
          settle(call(target, controller, message))
        } catch {
          // misuse: it throws to the one who calls, and changes nothing
        }
        return 'entered'
      }
      const schemaFor = (...places: string[]): never =>
        ({
          '~standard': {
            version: 1,
            vendor: 'test',
            validate: (value: unknown) => {
              enter(places[0]!)
              if (place !== places[1]) return { value }
              return turn().then(() => {
                enter(places[1]!)
                return { value }
              })
            }
          }
        }) as never
      const name = subscribed[place]
      const listener = (data: any): void => {
        if (place === 'open subscriber') target = data.channel
        if (data.channel === target) enter(place)
      }
      if (name !== undefined) diagnostics.subscribe(name, listener)
      const [a, b] = await connected(
        limits,
        place.endsWith('schema') ? { ...limits, schema: schemaFor('schema', 'late schema') } : limits
      )
      target = left.includes(place) ? a : b
      a.on('close', () => enter('close listener'))
      a.on('returned', () => enter('returned listener, at the end'))
      b.on('returned', () => enter('returned listener'))
      void a.closed.then(() => enter('closed continuation'))
      const handler = async (each: Message<any>): Promise<unknown> => {
        enter('late handler')
        await new Promise<void>(done =>
          each.signal.aborted ? done() : each.signal.addEventListener('abort', () => done())
        )
        enter('abort listener of a handler')
        return place !== 'returned listener' && answers.includes(what) ? undefined : { mine: file() }
      }
      const serve = (each: Message<any>): unknown => {
        message = each
        enter('handler')
        if (each.value === 'again') return undefined
        if (['late handler', 'abort listener of a handler', 'returned listener'].includes(place)) return handler(each)
        if (place === 'onError') return [file(), () => {}]
        if (!each.isRequest || (place === 'handler' && answers.includes(what))) return undefined // nobody would take more
        const mine = file()
        return {
          mine,
          get odd() {
            return enter('answer')
          }
        }
      }
      if (place === 'message listener')
        b.on('message', each => {
          message = each
          enter('message listener')
        })
      else if (!(place === 'open subscriber' && what === 'serve()'))
        b.serve(serve, { onError: () => void enter('onError') })
      const given = file()
      const value = {
        given,
        get odd() {
          return enter('getter')
        },
        deep: new (class {
          toJSON() {
            return enter('toJSON')
          }
        })()
      }
      controller.signal.addEventListener('abort', () => enter('abort listener'))
      try {
        const schema = place === 'reply schema' ? { schema: schemaFor('reply schema') } : {}
        settle(a.request<any>(value, { signal: controller.signal, timeout: 500, ...schema }).then(closeReply))
        if (place === 'abort listener') controller.abort()
      } catch (error) {
        t.true(entered, String(error))
      }
      if (atTheEnd.includes(place)) {
        b.destroy()
        giveAway(unconfirmed => void a.send({ unconfirmed }).catch(() => {}))
        await a.closed
      }
      if (givenUp.includes(place)) {
        await until(() => message !== undefined, `${what}: the request`)
        controller.abort()
      }
      await until(() => entered, `${what}: the call`)
      await turn()
      controller.abort()
      await Promise.all(pending)
      a.destroy()
      b.destroy()
      await Promise.all([a.closed, b.closed, ...pending])
      await turn()
      if (name !== undefined) diagnostics.unsubscribe(name, listener)
      given[Symbol.dispose]() // if the nested call made the other one throw, or has aborted it
      for (const each of claimed.splice(0))
        for (const descriptor of each?.descriptors ?? []) descriptor[Symbol.dispose]()
      t.true(timers() <= timersBefore, `${what}: a timer is left`)
      t.deepEqual(await leaked(before, 2), [], what)
    }
  })
