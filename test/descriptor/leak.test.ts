import { fileURLToPath } from 'node:url'
import { start } from '../helpers/process.ts'
import { test } from '../helpers/test.ts'

interface Warning {
  name: string
  code: string
  message: string
  detail: string
}

/** Runs a process that loses Descriptors; gives its warnings once all of them are closed. */
async function lose(ways: string[], trace?: string): Promise<Warning[]> {
  const fixture = fileURLToPath(new URL('../fixtures/leaker.mjs', import.meta.url))
  const { PASSFD_TRACE: _, ...env } = process.env
  const { line, exit } = start(process.execPath, ['--expose-gc', '--no-warnings', fixture, ...ways], {
    env: trace === undefined ? env : { ...env, PASSFD_TRACE: trace }
  })
  const warnings = JSON.parse(await line())
  await exit
  return warnings
}

const WARNING = {
  name: 'PassfdWarning',
  code: 'PASSFD_LEAK',
  message: 'A Descriptor was collected while still open; passfd has closed it. Close it, send it or convert it.',
  detail: 'Run with PASSFD_TRACE=1 to see where it came from.'
}

for (const way of ['own', 'later', 'dup', 'claimed', 'reply']) {
  test(`a Descriptor that is collected while open is closed, with a warning: ${way}`, async t => {
    t.deepEqual(await lose([way]), [WARNING])
  })
}

test('an OpenFile that is collected while open is closed, with a warning', async t => {
  const message = 'An OpenFile was collected while still open; passfd has closed it. Close it.'
  t.deepEqual(await lose(['file']), [{ ...WARNING, message }])
})

test('however many are lost, it warns once', async t => {
  t.deepEqual(await lose(['own', 'own', 'later', 'dup']), [WARNING])
})

test('what was closed or given up is no leak', async t => {
  t.deepEqual(await lose(['none']), [])
})

test('with PASSFD_TRACE=1 each warning names the place', async t => {
  const warnings = await lose(['own', 'dup', 'claimed', 'later'], '1')
  t.is(warnings.length, 4)
  t.true(
    warnings.every(
      ({ name, code, message }) => name === WARNING.name && code === WARNING.code && message === WARNING.message
    )
  )
  const places = ['loseOwn', 'loseDup', 'loseClaimed', 'later'].map(name =>
    warnings.filter(({ detail }) => new RegExp(`at .*${name} .*leaker\\.mjs:\\d+:\\d+`).test(detail))
  )
  t.deepEqual(
    places.map(found => found.length),
    [1, 1, 1, 1]
  )
})

test('any other value of PASSFD_TRACE traces nothing', async t => {
  t.deepEqual(await lose(['own'], '0'), [WARNING])
})
