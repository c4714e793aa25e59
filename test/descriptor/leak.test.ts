import { fileURLToPath } from 'node:url'
import { start } from '../helpers/process.ts'
import { testInCi } from '../helpers/test.ts'

interface Warning {
  name: string
  code: string
  message: string
  detail: string
}

/** Runs a process that loses Descriptors, phase by phase; gives the warnings of each phase once all its descriptors are closed. */
async function lose(phases: string[][], trace?: string): Promise<Warning[][]> {
  const fixture = fileURLToPath(new URL('../fixtures/leaker.mjs', import.meta.url))
  const { PASSFD_TRACE: _, ...env } = process.env
  const { line, exit } = start(process.execPath, ['--expose-gc', '--no-warnings', fixture, JSON.stringify(phases)], {
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

testInCi(
  'however many Descriptors are collected while open, they are closed, with one warning; what was closed or given up is no leak',
  async t => {
    t.deepEqual(await lose([['none'], ['own', 'own', 'later', 'dup']]), [[], [WARNING]])
  }
)

testInCi(
  'with PASSFD_TRACE=1 a Descriptor or OpenFile that is collected while open is closed, with a warning that names the place',
  async t => {
    const ways = ['own', 'dup', 'claimed', 'later', 'reply', 'file']
    const phases = await lose(
      ways.map(way => [way]),
      '1'
    )
    const warnings = phases.map(phase => {
      t.is(phase.length, 1)
      return phase[0]!
    })
    for (const [index, { name, code, message }] of warnings.entries())
      t.deepEqual(
        { name, code, message },
        {
          name: WARNING.name,
          code: WARNING.code,
          message:
            ways[index] === 'file'
              ? 'An OpenFile was collected while still open; passfd has closed it. Close it.'
              : WARNING.message
        }
      )
    for (const [index, place] of ['loseOwn', 'loseDup', 'loseClaimed', 'later'].entries())
      t.regex(warnings[index]!.detail, new RegExp(`at .*${place} .*leaker\\.mjs:\\d+:\\d+`))
  }
)

testInCi('any other value of PASSFD_TRACE traces nothing', async t => {
  t.deepEqual(await lose([['reply']], '0'), [[WARNING]])
})
