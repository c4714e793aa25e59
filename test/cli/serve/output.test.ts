/** The output of workers, as `passfd serve` writes it. */
import { once } from 'node:events'
import { readFileSync, renameSync, rmSync, symlinkSync } from 'node:fs'
import { asRecord, type OutputOptions, plain, prefixed, WorkerLog, writeLines } from '../../../src/cli/serve/output.ts'
import { descriptorTarget, fileTarget, Sink, type SinkEvents } from '../../../src/cli/serve/sink.ts'
import { Descriptor } from '../../../src/index.ts'
import { captured } from '../../helpers/cli.ts'
import { temporaryPath } from '../../helpers/path.ts'
import { light, supervising } from '../../helpers/supervising.ts'
import { test, until } from '../../helpers/test.ts'

const worker = { slot: 1, id: 7, pid: 4711 }
const unpausable = { pauseLines: () => {}, resumeLines: () => {} }
const quiet: SinkEvents = { onQueued: () => {}, onTrouble: () => {} }

function opened(options: Partial<OutputOptions>, reports: string[] = []): Promise<WorkerLog> {
  return WorkerLog.open({ streams: captured(), report: text => reports.push(text), ...options }, unpausable)
}

test('a line for a person, as it is, and as a record', t => {
  const line = Buffer.from('hello')
  t.is(`${plain(worker, 'stdout', line)}`, 'hello\n')
  t.is(`${prefixed(false)(worker, 'stdout', line)}`, '1 4711 | hello\n')
  t.is(`${prefixed(true)(worker, 'stdout', line)}`, '\x1b[33m1 4711\x1b[0m | hello\n')
  t.is(`${prefixed(true)(worker, 'stderr', line)}`, '\x1b[33m1 4711\x1b[0m \x1b[31m|\x1b[0m hello\n')
  t.is(`${prefixed(false)(worker, 'stdout', Buffer.from('\x1b[31mred'))}`, '1 4711 | \x1b[31mred\x1b[0m\n')
  const record = (text: string | Buffer) => `${asRecord(worker, 'stderr', Buffer.from(text as string))}`
  const { time, ...facts } = JSON.parse(record('he said "hi"'))
  t.is(new Date(time).toISOString(), time)
  t.deepEqual(facts, { ...worker, stream: 'stderr', text: 'he said "hi"' })
  t.true(record('{"b":1,"a":12345678901234567890}').endsWith(',"json":{"b":1,"a":12345678901234567890}}\n'))
  for (const text of ['{"a":', '[1]', '5', '{a}', '']) t.like(JSON.parse(record(text)), { text, json: undefined })
  t.deepEqual(JSON.parse(record('{"a":1}\r')).json, { a: 1 })
  const { text, bytes } = JSON.parse(record(Buffer.from('a\xff', 'latin1')))
  t.deepEqual([text, Buffer.from(bytes, 'base64').toString('latin1')], ['a\ufffd', 'a\xff'])
})

test('text goes to the stream that the worker wrote to, with a prefix on a terminal; records go to stdout', async t => {
  const write = async (format: 'text' | 'json', terminal: boolean) => {
    const streams = captured({}, { terminal })
    const log = await opened({ format, streams })
    log.line(worker, 'stdout', Buffer.from('out'))
    log.line(worker, 'stderr', Buffer.from('err'))
    await log.close()
    return [streams.out, streams.err]
  }
  t.deepEqual(await write('text', false), ['out\n', 'err\n'])
  const [out, err] = await write('text', true)
  t.regex(out!, /4711.*\| out\n$/)
  t.regex(err!, /4711.*\|.* err\n$/)
  const [records, none] = await write('json', true)
  t.deepEqual(
    records!.split('\n', 2).map(line => JSON.parse(line).text),
    ['out', 'err']
  )
  t.is(none, '')
})

test('a log file that is renamed and opened again: each line is whole, in one of them, in order', async t => {
  const path = temporaryPath('log')
  const log = await opened({ file: path })
  let next = 0
  const files: string[] = []
  for (let turn = 0; turn < 5; turn++) {
    for (let count = 0; count < 200; count++) log.line(worker, 'stdout', Buffer.from(`${next++} ${'x'.repeat(500)}`))
    const old = `${path}.${turn}`
    files.push(old)
    // Some lines are written, and some wait
    await until(() => readFileSync(path).length > 0, 'the first lines')
    renameSync(path, old)
    const reopening = log.reopen()
    log.line(worker, 'stdout', Buffer.from(`${next++} meanwhile`))
    await reopening
  }
  await log.close()
  const lines = [...files, path].flatMap(file => readFileSync(file, 'utf8').split('\n').slice(0, -1))
  t.deepEqual(
    lines.map(line => Number(line.split(' ')[0])),
    Array.from({ length: next }, (_, index) => index)
  )
  t.true(lines.every(line => /^\d+ (x{500}|meanwhile)$/.test(line)))
})

test('a log file that can not be opened', async t => {
  const file = `${temporaryPath('missing')}/log`
  await t.throwsAsync(opened({ file }), { message: `${file} can't be opened (ENOENT)` })
  const path = temporaryPath('log')
  const reports: string[] = []
  const log = await opened({ file: path }, reports)
  log.line(worker, 'stdout', Buffer.from('one'))
  rmSync(path, { force: true })
  symlinkSync('/nowhere/log', path)
  await log.reopen()
  t.deepEqual(reports, [`${path} can't be opened (ENOENT), so the old file is written on`])
  await log.close()
})

test('a full disk loses no line: they wait, and it is said once', async t => {
  const path = temporaryPath('log')
  symlinkSync('/dev/full', path)
  const reports: string[] = []
  const log = await opened({ file: path }, reports)
  log.line(worker, 'stdout', Buffer.from('one'))
  await until(() => reports.length > 0, 'the report')
  log.line(worker, 'stderr', Buffer.from('two'))
  rmSync(path)
  await log.reopen()
  await log.close()
  t.is(readFileSync(path, 'utf8'), 'one\ntwo\n')
  t.deepEqual(reports, [`${path} can't be written (ENOSPC)`, `${path} can be written again`])
})

test('a full disk does not hold up the end', async t => {
  const reports: string[] = []
  const log = await opened({ file: '/dev/full' }, reports)
  log.line(worker, 'stdout', Buffer.from('one'))
  await log.close()
  t.deepEqual(reports, [
    "/dev/full can't be written (ENOSPC)",
    'Lost, because they could not be written: 1 line of workers'
  ])
})

test('a file that writes only parts: the rest follows, and a new file gets the whole line', async t => {
  const taken: string[] = []
  let waits: (() => void) | undefined
  const partly = {
    write: async ([chunk]: readonly Buffer[]) => {
      taken.push(`${chunk!.subarray(0, 2)}`)
      if (taken.length === 4)
        await new Promise<void>(resolve => {
          waits = resolve
        })
      return Math.min(2, chunk!.length)
    },
    close: async () => void taken.push('closed')
  }
  const sink = new Sink(partly, true, quiet)
  for (const line of ['abc\n', 'defgh\n']) sink.write(Buffer.from(line))
  await until(() => waits !== undefined, 'the second line')
  t.deepEqual(taken, ['ab', 'c\n', 'de', 'fg'])
  const path = temporaryPath('log')
  const changing = sink.change(await fileTarget(path))
  waits!()
  await changing
  await sink.close()
  t.is(sink.queued, 0)
  t.is(taken.at(-1), 'closed')
  t.is(readFileSync(path, 'utf8'), 'defgh\n')
})

test('a reader that is slow gets every line; one that goes away ends nothing', async t => {
  const { readable, writable } = Descriptor.pipe()
  const sink = new Sink(descriptorTarget(writable), false, quiet)
  const line = Buffer.from(`${'x'.repeat(99)}\n`)
  for (let count = 0; count < 5000; count++) sink.write(line)
  await until(() => sink.queued < 500_000, 'the first bytes')
  t.true(sink.queued > 300_000)
  const stream = readable.toReadable()
  let got = 0
  stream.on('data', chunk => {
    got += chunk.length
  })
  await until(() => got === 500_000, 'all lines')
  stream.destroy()
  await once(stream, 'close')
  sink.write(line)
  await until(() => sink.gone, 'the end of the reader')
  sink.write(line)
  t.is(sink.queued, 0)
  await sink.close()
})

test('a reader that never reads does not hold up the end', async t => {
  const { readable, writable } = Descriptor.pipe()
  const sink = new Sink(descriptorTarget(writable), false, quiet)
  sink.write(Buffer.alloc(200_000, '\n'))
  t.is(await sink.close(), 1)
  readable.close()
})

test('too much that waits makes the supervisor read slowly; too much of that is dropped, and counted', async t => {
  const told: string[] = []
  const pausable = { pauseLines: () => void told.push('pause'), resumeLines: () => void told.push('resume') }
  const streams = captured()
  const options = { streams, report: (text: string) => void told.push(text) }
  const log = await WorkerLog.open(options, pausable, { pause: 50, resume: 20, most: 1000 })
  const line = Buffer.alloc(9)
  // They are written in a later turn
  for (let count = 0; count < 104; count++) log.line(worker, 'stdout', line)
  t.deepEqual(told, ['pause'])
  await log.close()
  t.is(told[1], '3 lines of workers were dropped, because nobody read them for too long')
  t.deepEqual(told.slice(2), ['resume'])
  t.is(streams.out.length, 1010)
})

test('of a supervisor: all lines of a worker that dies; USR1 opens the file again', async t => {
  const path = temporaryPath('log')
  const command = ['/bin/sh', '-c', `echo one; printf last; exec ${light()}`] as const
  await supervising(t, { command, spawn: { stdio: 'lines' } }, async supervisor => {
    const log = await writeLines(supervisor, { file: path, streams: captured(), report: t.fail })
    await supervisor.start()
    await until(() => readFileSync(path, 'utf8') === 'one\n', 'the first line')
    renameSync(path, `${path}.1`)
    process.kill(process.pid, 'SIGUSR1')
    await until(() => {
      try {
        return readFileSync(path, 'utf8') === ''
      } catch {
        return false
      }
    }, 'the new file')
    await supervisor.kill()
    await log.close()
    t.is(readFileSync(path, 'utf8'), 'last\n')
    t.is(supervisor.listenerCount('line'), 0)
    t.is(process.listenerCount('SIGUSR1'), 0)
  })
})
