import { expect, jest, test } from '@jest/globals'
import * as passfd from 'passfd'
import { evaluateAgain, exchange, leaveBehind, writeToAll } from '../behaviour.mjs'

const path = process.env.PASSFD_PATH
const equal = (actual, expected) => expect(actual).toEqual(expected)

test('a request', () => exchange(passfd, equal))

test('channels that earlier files have left behind are written to', () => writeToAll(passfd, path, equal))

test('jest.resetModules()', () => {
  const again = () => {
    jest.resetModules()
    return import('passfd')
  }
  return evaluateAgain(passfd, again, equal)
})

test('a channel is left behind', () => leaveBehind(passfd, path))
