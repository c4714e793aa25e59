import * as passfd from 'passfd'
import { expect, inject, test, vi } from 'vitest'
import { evaluateAgain, exchange, leaveBehind, leaveOpen, writeToAll } from '../behaviour.mjs'

const equal = (actual, expected) => expect(actual).toEqual(expected)

test('a request', () => exchange(passfd, equal))

test('channels that earlier files have left behind are written to', () => writeToAll(passfd, inject('path'), equal))

// Vitest evaluates again what it has evaluated itself: a module that Node loads stays as it is
test.runIf(process.env.INLINE === 'yes')('vi.resetModules()', () => {
  const again = () => {
    vi.resetModules()
    return import('passfd')
  }
  return evaluateAgain(passfd, again, equal)
})

test('a channel is left behind', () => leaveBehind(passfd, inject('path')))

test('a server is left open', () => leaveOpen(passfd, `passfd-left-open-${process.pid}`, equal))
