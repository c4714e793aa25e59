import { EventEmitter } from 'node:events'
import { addNotices, Consumer, LISTENERS, LOOP, NOBODY } from '../../src/base/consumer.ts'
import { test } from '../helpers/test.ts'

const CONSUMED = { code: 'ERR_PASSFD_CONSUMED' }

/** A consumer of numbers, and what it has asked of its owner. */
function made() {
  const asked: string[] = []
  const state = { listeners: 0 }
  const consumer = new Consumer<number, 'another'>({
    countListeners: () => state.listeners,
    pump: () => asked.push('pump'),
    endItem: item => asked.push(`end ${item}`),
    onLeft: () => asked.push('left')
  })
  return { consumer, asked, state }
}

test('there is one consumer, and listeners that have gone do not count', t => {
  const { consumer, state } = made()
  t.is(consumer.by, NOBODY)
  t.false(consumer.ready)
  state.listeners = 1
  consumer.claim(LISTENERS)
  consumer.claim(LISTENERS)
  t.true(consumer.ready)
  t.throws(() => consumer.claim(LOOP), CONSUMED)
  state.listeners = 0
  consumer.claim('another')
  for (const by of ['another', LOOP, LISTENERS] as const) t.throws(() => consumer.claim(by), CONSUMED)
  t.false(consumer.ready, 'of another the owner decides')
})

test('listeners that have gone leave it to the next', t => {
  const { consumer, state } = made()
  state.listeners = 1
  consumer.claim(LISTENERS)
  state.listeners = 0
  t.false(consumer.ready)
  t.is(consumer.by, NOBODY)
})

test('a loop: an item is current until the next is asked for, and leaving it ends all', async t => {
  const { consumer, asked } = made()
  const loop = consumer.iterate()
  t.throws(() => consumer.iterate(), CONSUMED)
  t.false(consumer.ready)
  const first = loop.next()
  t.true(consumer.ready)
  consumer.giveToLoop(1)
  t.deepEqual(await first, { done: false, value: 1 })
  t.deepEqual(consumer.current, [1])
  const second = loop.next()
  t.deepEqual(asked, ['pump', 'end 1', 'pump'])
  consumer.giveToLoop(2)
  await second
  const third = loop.next()
  await loop.return!()
  t.deepEqual(await third, { done: true, value: undefined })
  t.deepEqual(await loop.next(), { done: true, value: undefined })
  t.deepEqual(asked.slice(3), ['end 2', 'pump', 'left'])
  t.is(consumer.by, NOBODY)
  await loop.return!()
  t.is(asked.length, 6, 'it is left once')
})

test('notices are added once, and again after all listeners were removed', t => {
  const emitter = new EventEmitter()
  const seen: (string | symbol)[] = []
  const notices = [['newListener', (name: string | symbol) => void seen.push(name)]] as const
  addNotices(emitter, notices)
  addNotices(emitter, notices)
  emitter.on('message', () => {})
  t.deepEqual(seen, ['message'])
  emitter.removeAllListeners()
  addNotices(emitter, notices)
  emitter.on('message', () => {})
  t.deepEqual(seen, ['message', 'message'])
})
