import { addressOf, destinationOf } from '../../src/datagram/address.ts'
import { test } from '../helpers/test.ts'

const bytesOf = (address: unknown) => destinationOf(address).use(bytes => Buffer.from(bytes).toString('latin1'))
const invalid = { code: 'ERR_PASSFD_INVALID_ARGUMENT' }

test('addresses as users give them', t => {
  t.is(bytesOf('/run/x'), '/run/x')
  t.is(bytesOf({ path: '/run/x' }), '/run/x')
  t.is(bytesOf({ abstract: 'x\0é' }), '\0x\0\xc3\xa9')
  t.is(destinationOf({ abstract: 'x' }).shown, '@x')
  for (const wrong of [undefined, null, '', 7, {}, { path: 'a\0b' }, { path: 'a', abstract: 'b' }])
    t.throws(() => destinationOf(wrong), invalid)
})

test('one address has one key, however it is given, and no two share one', t => {
  const received = addressOf(Buffer.from('/run/x'))
  const keys = ['/run/x', { path: '/run/x' }, received].map(address => destinationOf(address).key)
  t.is(new Set(keys).size, 1)
  const abstract = [{ abstract: 'é' }, addressOf(Buffer.from('\0é'))].map(address => destinationOf(address).key)
  t.is(new Set(abstract).size, 1)
  const others = ['x', { abstract: 'x' }, { abstract: '\0x' }, './x'].map(address => destinationOf(address).key)
  t.is(new Set(others).size, others.length)
})

test('names as the kernel tells them, to the byte', t => {
  t.deepEqual(addressOf(Buffer.from('/run/x')), { path: '/run/x' })
  t.deepEqual(addressOf(Buffer.from('\0x\0y')), { abstract: 'x\0y' })
  t.is(addressOf(Buffer.alloc(0)), undefined)
  const odd = addressOf(Buffer.from('\0\xff\xfe', 'latin1'))!
  t.is(bytesOf(odd), '\0\xff\xfe')
  t.not(bytesOf({ ...odd }), '\0\xff\xfe', 'what looks like it is another one')
  t.true(Object.isFrozen(odd))
})

test('a name that leads somewhere else from here is none', t => {
  for (const path of ['/proc/self/fd/3/socket', '/proc/thread-self/fd/3/socket'])
    t.is(addressOf(Buffer.from(path)), undefined)
  t.deepEqual(addressOf(Buffer.from('/proc/selfish')), { path: '/proc/selfish' })
})

test('one name is one object, and no other name is', t => {
  const first = addressOf(Buffer.from('\0first'))
  t.is(addressOf(Buffer.from('..\0first').subarray(2)), first)
  t.is(addressOf(Buffer.from('\0first, and what was there before'), 6), first)
  for (const other of ['\0firsT', '\0firs', '\0first!']) t.not(addressOf(Buffer.from(other)), first)
  t.deepEqual(addressOf(Buffer.from('\0first')), first)
})

test('an address that the program changes leads to the new place', t => {
  const address = { abstract: 'first' }
  t.is(bytesOf(address), '\0first')
  address.abstract = 'second'
  t.is(bytesOf(address), '\0second')
  for (const path of ['/run/x', '/run/y', '/run/x']) t.is(bytesOf(path), path)
  t.is(destinationOf('/run/x'), destinationOf('/run/x'), 'a string is read once')
})

test('the bytes of a name are a copy', t => {
  const shared = Buffer.from('\0first')
  const address = addressOf(shared)
  shared.fill('x')
  t.is(bytesOf(address), '\0first')
})
