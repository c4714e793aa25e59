import { setImmediate } from 'node:timers/promises'
import { Command } from 'commander'
import { Ui, useStreams } from '../../src/cli/ui.ts'
import { captured } from '../helpers/cli.ts'
import { test, until } from '../helpers/test.ts'

interface Screen {
  terminal: boolean
  columns?: number
}

/** Calls `progress` with work that ends when `seen` has returned true for what stands on stderr. Returns all that was written there. */
async function during(
  screen: Screen,
  seen: (line: string) => boolean,
  detail?: () => Promise<string>
): Promise<string> {
  const streams = captured({}, screen)
  if (screen.columns !== undefined) streams.stderr.columns = screen.columns
  const command = new Command()
  useStreams(command, streams)
  let finish = (_: string): void => {}
  const work = new Promise<string>(resolve => {
    finish = resolve
  })
  const result = new Ui(command).progress('Reloading shop', work, detail, 1)
  await until(() => seen(streams.err.split('\x1b[K').at(-1)!), 'the line')
  finish('done')
  if ((await result) !== 'done') throw new Error('another result')
  return streams.err
}

test('progress: nothing of what is done soon, or without a terminal', async t => {
  t.is(await during({ terminal: true }, () => true), '')
  let turns = 0
  const enough = () => ++turns > 10
  t.is(await during({ terminal: false }, enough), '')
})

test('progress: the time and what it waits for, in one line that is erased at the end', async t => {
  const seen = [
    /^Reloading shop … \d+ s: worker 0 starts$/,
    /^Reloading shop … \d+ s$/,
    /^Reloading shop … \d+ s: worker 1 finishes$/
  ]
  const said = ['worker 0 starts', '', 'worker 1 finishes']
  const err = await during(
    { terminal: true },
    line => {
      if (seen[0]!.test(line)) {
        seen.shift()
        said.shift()
      }
      return seen.length === 0
    },
    async () => said[0] ?? ''
  )
  t.true(err.endsWith('\r\x1b[K'))
})

test('progress: a line that is too long is cut', async t => {
  await during(
    { terminal: true, columns: 24 },
    line => line.length === 23,
    async () => 'worker 0 starts'
  )
  t.pass()
})

test('progress: a detail that fails, or that comes too late, changes nothing', async t => {
  const failing = await during(
    { terminal: true },
    line => / s$/.test(line),
    () => Promise.reject(new Error('ended'))
  )
  t.notRegex(failing, /ended/)
  let answer = (_: string): void => {}
  const asked = () =>
    new Promise<string>(resolve => {
      answer = resolve
    })
  const late = await during({ terminal: true }, line => / s$/.test(line), asked)
  answer('late')
  await setImmediate()
  t.true(late.endsWith('\r\x1b[K'))
})
