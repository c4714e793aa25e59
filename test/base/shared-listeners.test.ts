import { EventEmitter } from 'node:events'
import { SharedListeners } from '../../src/base/shared-listeners.ts'
import { test } from '../helpers/test.ts'

function setUp() {
  const names: (string | symbol)[] = []
  const listeners = new SharedListeners(name => names.push(name))
  names.length = 0 // it has tried whether this runtime can share
  const make = (): EventEmitter => {
    const emitter = new EventEmitter()
    listeners.give(emitter)
    return emitter
  }
  return { names, listeners, make }
}

test('emitters share their listeners until the program adds one', t => {
  const { names, make } = setUp()
  const [one, other] = [make(), make()]
  const events = (emitter: EventEmitter) => (emitter as unknown as { _events: object })._events
  t.is(events(one), events(other))
  one.on('a', () => {})
  EventEmitter.prototype.once.call(other, 'b', () => {})
  t.deepEqual(names, ['a', 'b'])
  t.deepEqual(one.eventNames(), ['newListener', 'a'])
  t.deepEqual(other.eventNames(), ['newListener', 'b'])
  t.deepEqual(make().eventNames(), ['newListener'])
})

test('a listener is called, counted and removed as on any emitter', t => {
  const { names, make } = setUp()
  const emitter = make()
  const heard: unknown[] = []
  const hear = (value: unknown) => heard.push(value)
  t.false(emitter.emit('a', 1))
  emitter.off('a', hear)
  emitter.prependListener('a', hear)
  t.true(emitter.emit('a', 2))
  t.is(emitter.listenerCount('a'), 1)
  emitter.off('a', hear)
  t.false(emitter.emit('a', 3))
  emitter.on('newListener', hear)
  emitter.on('a', () => {})
  t.deepEqual(heard, [2, 'a'])
  t.deepEqual(names, ['a', 'newListener', 'a'])
})

test('the notice survives the removal of all listeners', t => {
  for (const event of [undefined, 'newListener', 'a']) {
    const { names, listeners, make } = setUp()
    const [one, other] = [make(), make()]
    if (event === 'a') one.on('a', () => {})
    if (event === undefined) one.removeAllListeners()
    else one.removeAllListeners(event)
    listeners.giveAgain(one)
    listeners.giveAgain(one)
    names.length = 0
    one.on('b', () => {})
    t.deepEqual(names, ['b'], event)
    other.on('c', () => {})
    t.deepEqual(names, ['b', 'c'], 'the other one has kept it')
  }
})
