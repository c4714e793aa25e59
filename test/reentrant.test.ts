/** Calls into a channel from places where it is in the middle of something: all promises settle, and nothing is left. */
import diagnostics from 'node:diagnostics_channel'
import { setImmediate as turn } from 'node:timers/promises'
import type { Channel, Message } from '../src/index.ts'
import { connected, file } from './helpers/channels.ts'
import { test } from './helpers/test.ts'

type Call = (channel: Channel<any, any>, controller: AbortController, message: Message | undefined) => unknown

const calls: Record<string, Call> = {
  'send()': channel => channel.send('again'),
  'request()': channel => channel.request('again', { timeout: 500 }),
  'close()': channel => channel.close(),
  'destroy()': channel => channel.destroy(),
  'destroy(error)': channel => channel.destroy(new Error('mine')),
  'abort()': (_, controller) => controller.abort(),
  'serve()': channel => channel.serve(() => 'served'),
  'removeAllListeners()': channel => channel.removeAllListeners(),
  'reply()': (_channel, _controller, message) => message?.reply('nested'),
  'fail()': (_channel, _controller, message) => message?.fail(new Error('nested')),
  'dispose()': (_channel, _controller, message) => message?.[Symbol.dispose]()
}

const places = ['getter', 'toJSON', 'schema', 'late schema', 'received', 'answer', 'onError'] as const
const timers = () => process.getActiveResourcesInfo().filter(each => each === 'Timeout').length

for (const place of places)
  test(`re-entrant calls: ${place}`, async t => {
    for (const [what, call] of Object.entries(calls)) {
      const before = timers()
      const pending: Promise<unknown>[] = []
      const controller = new AbortController()
      let message: Message | undefined
      let entered = false
      const settle = (result: unknown): void => {
        if (result instanceof Promise) pending.push(result.catch(() => {}))
      }
      const enter = (channel: Channel<any, any>): string => {
        if (entered) return ''
        entered = true
        try {
          settle(call(channel, controller, message))
        } catch {
          // misuse: it throws to the one who calls, and changes nothing
        }
        return 'entered'
      }
      let target: Channel<any, any>
      const schema = {
        '~standard': {
          version: 1,
          vendor: 'test',
          validate: (value: unknown) => {
            if (place === 'schema') enter(target)
            return place === 'late schema' ? turn().then(() => (enter(target), { value })) : { value }
          }
        }
      }
      const [left, right] = await connected({}, place.endsWith('schema') ? { schema: schema as never } : {})
      target = ['getter', 'toJSON'].includes(place) ? left : right
      const listener = (data: any): void => void (data.channel === target && enter(target))
      const subscribed = place === 'received' ? 'passfd:message:received' : undefined
      if (subscribed !== undefined) diagnostics.subscribe(subscribed, listener)
      right.serve(
        each => {
          message = each
          if (place === 'onError') return [file(), () => {}]
          return { mine: file(), get odd() { return place === 'answer' ? enter(right) : 1 } } // biome-ignore format: one line
        },
        { onError: () => void (place === 'onError' && enter(right)) }
      )
      const value = {
        file: file(),
        get odd() { return place === 'getter' ? enter(left) : 1 }, // biome-ignore format: one line
        deep: place === 'toJSON' ? new (class { toJSON() { return enter(left) } })() : 1 // biome-ignore format: one line
      }
      const dispose = (reply: any): void => reply?.mine?.close?.()
      try {
        settle(left.request<any>(value, { signal: controller.signal, timeout: 500 }).then(dispose))
      } catch {
        value.file.close() // the nested call was misuse that the getter let out
      }
      await turn()
      await Promise.all(pending)
      left.destroy()
      right.destroy()
      await Promise.all([left.closed, right.closed, ...pending])
      await turn()
      if (subscribed !== undefined) diagnostics.unsubscribe(subscribed, listener)
      value.file[Symbol.dispose]()
      t.true(entered, `${what} was not called`)
      t.true(timers() <= before, `${what}: a timer is left`)
    }
  })
