import { constants } from 'node:os'
import * as errno from '../../src/base/errno.ts'
import { test } from '../helpers/test.ts'

test('each is the number that this kernel has for the name', t => {
  const numbers = new Map(Object.entries(constants.errno))
  numbers.set('ETOOMANYREFS', 109) // not in Node's list
  for (const [name, number] of Object.entries(errno)) t.is(number, -numbers.get(name)!, name)
})
