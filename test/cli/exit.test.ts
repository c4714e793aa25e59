import { readFileSync } from 'node:fs'
import { PassfdError } from '../../src/base/errors.ts'
import { CommandError, EXIT, failureOf } from '../../src/cli/exit.ts'
import { connect } from '../../src/index.ts'
import { test } from '../helpers/test.ts'

test('a command’s own error', t => {
  t.deepEqual(failureOf(new CommandError(EXIT.data, 'The value is no JSON')), {
    exitCode: 65,
    message: 'The value is no JSON.',
    code: undefined
  })
})

test('an error of the system names its path, its meaning, and a remedy', t => {
  const error = t.throws(() => readFileSync('/no/such/file'))
  t.deepEqual(failureOf(error), {
    exitCode: EXIT.noInput,
    message: '/no/such/file: no such file or directory (ENOENT, open). Check the path.',
    code: 'ENOENT'
  })
  const taken = Object.assign(new Error(), { code: 'EADDRINUSE', errno: -98, syscall: 'bind', address: '::', port: 80 })
  t.regex(failureOf(taken).message, /^\[::\]:80: address already in use \(EADDRINUSE, bind\)\. Stop the program /)
  const unknown = Object.assign(new Error(), {
    code: 'ENOTFOUND',
    errno: -3008,
    syscall: 'getaddrinfo',
    hostname: 'host.invalid'
  })
  t.deepEqual(failureOf(unknown), {
    exitCode: EXIT.cantCreate,
    message: 'host.invalid: unknown node or service (ENOTFOUND, getaddrinfo). Check the name of the host.',
    code: 'ENOTFOUND'
  })
})

test('an error of passfd has its own remedy', async t => {
  const error = await t.throwsAsync(connect({ abstract: 'x'.repeat(300) }))
  const { exitCode, code, message } = failureOf(error)
  t.deepEqual({ exitCode, code }, { exitCode: EXIT.usage, code: 'ERR_PASSFD_ADDRESS_TOO_LONG' })
  t.regex(message, /Use a shorter \w+\.$/)
})

test('all else is a fault of passfd', t => {
  t.is(failureOf(new RangeError('no')).exitCode, EXIT.internal)
  t.is(failureOf(undefined).exitCode, EXIT.internal)
})

test('errors of a store', t => {
  const codeOf = (key: Parameters<typeof storeError>[0]): number => failureOf(storeError(key)).exitCode
  t.is(codeOf('STORE_EXISTS'), EXIT.cantCreate)
  t.is(codeOf('STORE_FULL'), EXIT.temporary)
  t.is(codeOf('STORE_LEASED'), EXIT.temporary)
  t.is(codeOf('STORE_DENIED'), EXIT.noPermission)
  t.is(codeOf('STORE_UNREACHABLE'), EXIT.unavailable)
})

function storeError(key: 'STORE_EXISTS' | 'STORE_FULL' | 'STORE_LEASED' | 'STORE_DENIED' | 'STORE_UNREACHABLE'): Error {
  return new PassfdError(key, {})
}
