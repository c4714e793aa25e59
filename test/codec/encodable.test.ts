import { EventEmitter } from 'node:events'
import * as net from 'node:net'
import { PassfdError } from '../../src/base/errors.ts'
import { decode, encode, MODES, newCodec } from '../helpers/bodies.ts'
import { encodeBy } from '../helpers/codec.ts'
import { test } from '../helpers/test.ts'

test('what lives in this process, or has no meaning elsewhere, is refused, and the codec goes on', t => {
  const circular: Record<string, unknown> = { a: 1 }
  circular.self = circular
  const circularArray: unknown[] = []
  circularArray.push(circularArray)
  const circularMap = new Map<unknown, unknown>()
  circularMap.set('self', circularMap)
  const socket = new net.Socket()
  const refused: [what: string, value: unknown, sentence: RegExp][] = [
    ['RegExp', /x/, /RegExp/],
    ['Error', new Error('x'), /Error/],
    ['TypeError', new TypeError('x'), /Error/],
    ['PassfdError', new PassfdError('CONSUMED'), /Error/],
    ['an Error with toJSON', Object.assign(new Error('x'), { toJSON: () => 1 }), /Error/],
    ['function', () => {}, /function/],
    ['class', class {}, /function/],
    ['Promise', Promise.resolve(), /Promise/],
    ['socket', socket, /alive/],
    ['server', net.createServer(), /alive/],
    ['EventEmitter', new EventEmitter(), /alive/],
    ['symbol', Symbol('x'), /symbol/],
    ['circular object', circular, /refers to itself/],
    ['circular array', circularArray, /refers to itself/],
    ['circular Map', circularMap, /refers to itself/],
    [
      'a getter that throws',
      {
        get a() {
          throw new Error('my own')
        }
      },
      /my own/
    ],
    [
      'a toJSON that throws',
      new (class {
        toJSON() {
          throw new Error('my own')
        }
      })(),
      /my own/
    ]
  ]
  for (const mode of MODES) {
    const sender = newCodec(true)
    const receiver = newCodec(true)
    for (const [what, value, sentence] of refused) {
      for (const wrapped of [value, [value], { deep: { er: value } }, new Map([['x', value]]), new Set([value])]) {
        sender.records = mode !== 'plain'
        const error = t.throws(() => encodeBy(sender, { unseen: 1, shape: wrapped }, mode === 'streamed'), {
          code: 'ERR_PASSFD_ENCODE'
        })
        t.regex(error!.message, sentence, `${mode}, ${what}`)
      }
      // Definitions of what failed are assumed by nobody
      for (const good of [{ unseen: 2, shape: 3 }, { shape: 4 }, [{ deep: 1 }, { er: 2 }]]) {
        t.deepEqual(decode(receiver, encode(sender, mode, good)), good, `${mode} after ${what}`)
      }
    }
  }
  socket.destroy()
})
