import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArguments } from '../bench/arguments.ts'
import { describeConditions, readConditions } from '../bench/conditions.ts'
import {
  type Contender,
  CPU_RUNS,
  type Effort,
  measure,
  QUICK,
  type Result,
  type Row,
  type SideRow,
  WHOLE
} from '../bench/measure.ts'
import { conditionsMissing, usocketMissing } from '../bench/missing.ts'
import { start as startContender } from '../bench/process.ts'
import { spreadTable, table } from '../bench/report.ts'
import type { Report } from '../bench/run.ts'
import { spreadOf } from '../bench/spread.ts'
import { compiled } from './helpers/compiled.ts'
import { isFull } from './helpers/full.ts'
import { start } from './helpers/process.ts'
import { test, testFull, testIf, testInCi } from './helpers/test.ts'

const SHORT = { BENCH_WARM_UP: '5', BENCH_FLOOR_WARM_UP: '5', BENCH_MEASURED: '5' }
const bench = (path: string) => fileURLToPath(new URL(`../bench/${path}`, import.meta.url))
const names = readdirSync(bench('rows')).map(file => file.replace(/\.ts$/, ''))
const rows = new Map<string, Row>()
const sideRows = new Map<string, SideRow>()
for (const name of names) {
  const { default: row } = (await import(`../bench/rows/${name}.ts`)) as { default: Row | SideRow }
  if ('of' in row) sideRows.set(name, row)
  else rows.set(name, row)
}

function runBench(args: string[], environment: NodeJS.ProcessEnv = {}) {
  return start(process.execPath, [...compiled, bench('run.ts'), ...args], {
    env: { ...process.env, ...SHORT, ...environment }
  })
}

/** What a contender says when it is asked once; it must end well. */
async function measuredBy(program: string, workload: string): Promise<string> {
  const env = { ...process.env, ...SHORT }
  const { child, line, exit } = start(process.execPath, [bench(program), workload], { env })
  if ((await line()) !== 'ready') throw new Error('it is not ready')
  child.stdin!.write('\n')
  const value = await line()
  child.stdin!.end()
  const { code, stderr } = await exit
  if (code !== 0) throw new Error(stderr)
  return value
}

const runsOf = (runs: number) => ({ ...WHOLE, runs })

/** A contender that says the same for each line on its stdin. */
const saying = (answer: string): Contender => ({
  command: ['sh', '-c', `echo ready; while read line; do echo ${answer}; done`]
})

const row = (ours: Contender, peers: Row['peers']): Row => ({
  what: 'nothing',
  unit: 'things/s',
  better: 'more',
  placement: 'unpinned',
  ours,
  peers
})

for (const layer of ['channel', ...(isFull ? ['codec', 'transport'] : [])])
  test(`layer ${layer}: a message with a descriptor`, async t => {
    const value = await measuredBy(`layers/${layer}.mjs`, 'descriptor')
    t.regex(value, /^\d+(\.\d+)?$/)
    t.true(Number(value) > 0)
  })

for (const [peer, workload, said = /^\d+(\.\d+)?(e-\d+)?$/] of [
  ['datagrams', 'passfd:one-way'],
  ['stream', 'passfd'],
  ['store', 'copy'],
  ['take', 'passfd', /^[\d.]+ take=[\d.]+ inject=[\d.]+$/],
  ...(isFull
    ? ([
        ['datagrams', 'unix-dgram:one-way'],
        ['stream', 'socket'],
        ['store', 'channel'],
        ['take', 'process-send']
      ] as const)
    : [])
] as const)
  testInCi(`${peer} ${workload}: what it measures, and it ends well`, async t => {
    const value = await measuredBy(`peers/${peer}.mjs`, workload)
    t.regex(value, said)
    t.true(Number.parseFloat(value) > 0)
  })

test('a row that does not exist: those that do', async t => {
  const { exit } = runBench(['no-such-row'])
  const { code, stderr } = await exit
  t.is(code, 1)
  t.is(stderr, `unknown row: no-such-row. Rows: ${names.join(', ')}\n`, 'no stack')
})

for (const [option, said] of [
  ['--runs=0', /^--runs takes a whole number from 1 on, not 0$/],
  ['--runs=2.5', /^--runs takes a whole number from 1 on, not 2\.5$/],
  ['--runs=many', /^--runs takes a whole number from 1 on, not many$/],
  ['--runs', /'--runs <value>' argument missing\n.*\[--runs N\]/],
  ['--repeat=0', /^--repeat takes a whole number from 1 on, not 0$/],
  ['--jsom', /Unknown option '--jsom'.*\n.*\[--json\]/]
] as const)
  test(`${option}: what may be said instead`, t => {
    t.throws(() => parseArguments(['layer-frame', option], names), { message: said })
  })

for (const peer of ['passfd', ...(isFull ? ['process-send', 'socket-msgpackr', 'packr-stream'] : [])])
  testInCi(`${peer}: fails when its far end does`, async t => {
    const { child, line, exit } = start(process.execPath, [bench(`peers/${peer}.mjs`), 'messages'], {
      env: { ...process.env, ...SHORT }
    })
    t.is(await line(), 'ready')
    const [far] = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').split(' ')
    process.kill(Number(far), 'SIGKILL')
    const { code, stderr } = await exit
    t.is(code, 1)
    t.regex(stderr, /the far end exited with SIGKILL|EPIPE|ECONNRESET|ERR_PASSFD/)
  })

testInCi(
  '--json: one object; a program that is not there is left out, with one line that says what to do; so is a row whose own contender can not run',
  async t => {
    const path = mkdtempSync(join(tmpdir(), 'passfd-test-'))
    try {
      const folder = process.env.PATH!.split(':').find(candidate => existsSync(join(candidate, 'taskset')))
      symlinkSync(join(folder!, 'taskset'), join(path, 'taskset'))
      const asked = ['layer-frame', 'descriptors-many', 'prefork-dispatch', 'prefork-dispatch-cpu']
      const { line, exit } = runBench(['--json', '--runs', '2', ...asked], { PATH: path })
      const { machine, results, conditions, stolen, seconds, rowSeconds, ...rest } = JSON.parse(await line()) as Report
      t.regex(machine, /Node v\d+/)
      t.deepEqual(rest, {})
      t.true(Math.abs(Date.now() - Date.parse(conditions.date)) < 600_000)
      t.true(conditions.load >= 0 && conditions.busy >= 0 && conditions.busy <= 100)
      t.deepEqual(conditions.costs, {}, 'there is no compiler')
      t.true(stolen >= 0 && stolen <= 100)
      t.deepEqual(Object.keys(rowSeconds), ['layer-frame', 'descriptors-many'])
      t.true(seconds >= rowSeconds['layer-frame']! && rowSeconds['layer-frame']! > 0)
      t.deepEqual(
        results.map(({ name }) => name),
        ['layer-frame', 'descriptors-many']
      )
      const [{ unit, ours, min, max, peers, ranges, ratios, ratioRanges, runs, lost }, many] = results as [
        Result,
        Result
      ]
      t.is(unit, 'ns')
      t.is(runs, 2)
      t.true(min > 0 && min <= ours && ours <= max)
      t.deepEqual(Object.keys(peers), ['without records', 'with a descriptor'])
      t.deepEqual(Object.keys(ratios), Object.keys(peers))
      for (const value of [...Object.values(peers), ...Object.values(ratios)]) t.true(value > 0)
      for (const [medians, all] of [
        [peers, ranges],
        [ratios, ratioRanges]
      ] as const)
        for (const [peer, { min, max }] of Object.entries(all)) t.true(min <= medians[peer]! && medians[peer]! <= max)
      t.deepEqual(Object.keys(ranges), Object.keys(peers))
      t.is(lost, undefined)

      t.true(many.ours > 0)
      for (const peer of Object.keys(many.peers)) t.notRegex(peer, /^C |^Python$/)
      const { code, stderr } = await exit
      t.is(code, 0, stderr)
      const lines = stderr
        .split('\n')
        .filter(text => !/usocket|^npm ci in bench|^not quiet: /.test(text) && text !== '')
      t.is(lines.length, 2, stderr)
      t.regex(lines[0]!, /^left out: C: gcc can't be run .*ENOENT.*apt-get install build-essential$/)
      t.regex(lines[1]!, /^left out: Python: python3 can't be run .*ENOENT.*apt-get install python3$/)
      await t.throwsAsync(line(), undefined, 'one line is all')
    } finally {
      rmSync(path, { recursive: true })
    }
  }
)

test('what a peer loses is added up and told', async t => {
  const asked = row(saying('8'), { lossy: saying('4 3'), careful: saying('2 0'), safe: saying('16') })
  const [result] = await measure('some', asked, runsOf(3))
  t.is(result.ours, 8)
  t.deepEqual(result.peers, { lossy: 4, careful: 2, safe: 16 })
  t.deepEqual(result.ratios, { lossy: 2, careful: 4, safe: 0.5 })
  t.deepEqual(result.lost, { lossy: 9, careful: 0 })
  const [ours, lossy, careful, safe] = table(result).split('\n') as [string, string, string, string]
  t.regex(lossy, /lossy.*lost 9$/)
  t.regex(careful, /lost 0$/)
  t.notRegex(ours + safe, /lost/)
})

test('what contenders measure besides is a row of its own', async t => {
  const asked = row(saying('8 cpu=6 other=1'), { one: saying('4 cpu=3 other=1'), two: saying('2 0 cpu=12') })
  const side: SideRow = {
    of: 'some',
    side: 'cpu',
    what: 'CPU time',
    unit: 'µs',
    better: 'less',
    peers: ['two'],
    targets: { two: 0.2 },
    bound: 5
  }
  const [result, beside, ...rest] = await measure('some', asked, runsOf(3), { 'some-cpu': side })
  t.deepEqual(result.peers, { one: 4, two: 2 })
  t.deepEqual(result.lost, { two: 0 })
  t.deepEqual(beside, {
    name: 'some-cpu',
    unit: 'µs',
    ours: 6,
    min: 6,
    max: 6,
    peers: { two: 12 },
    ranges: { two: { min: 12, max: 12 } },
    ratios: { two: 0.5 },
    ratioRanges: { two: { min: 0.5, max: 0.5 } },
    targets: { two: 0.2 },
    bound: 5,
    better: 'less',
    runs: 3
  })
  t.deepEqual(rest, [])
  const [ours, two] = table(beside!).split('\n') as [string, string]
  t.regex(ours, /passfd +6 .*bound ≤ 5, missed/)
  t.regex(two, /two +12 .*= 0\.5 \(0\.5 – 0\.5\), bound ≤ 0\.2, missed/)
})

/** Contenders that fail at each step. */
const FAILING: Readonly<Record<string, Contender>> = {
  'at the start': { command: ['sh', '-c', 'echo "no port" >&2; exit 3'] },
  'while it is measured': { command: ['sh', '-c', 'echo ready; read line; echo "two are missing" >&2; exit 3'] },
  'the second time': {
    command: ['sh', '-c', 'echo ready; read line; echo 5; read line; echo "two are missing" >&2; exit 3']
  },
  'at the end': { command: ['sh', '-c', 'echo ready; while read line; do echo 5; done; echo "left open" >&2; exit 3'] }
}

for (const [when, failing] of Object.entries(FAILING))
  test(`a contender that fails ${when}: the others are measured, and its reason is reported`, async t => {
    const [result] = await measure('some', row(saying('8'), { failing, safe: saying('16') }), runsOf(2))
    t.is(result.ours, 8)
    t.is(result.runs, 2)
    t.deepEqual(result.peers, { safe: 16 })
    t.deepEqual(result.ratios, { safe: 0.5 })
    t.deepEqual(Object.keys(result.failed!), ['failing'])
    t.regex(result.failed!.failing!, /ended with 3\n.*(no port|two are missing|left open)/s)
    const [ours, safe, failed, end] = table(result).split('\n')
    t.regex(ours!, /passfd +8 /)
    t.regex(safe!, /safe +16 /)
    t.regex(failed!, /failing +failed +.*(no port|missing|left open|ended with 3)/)
    t.is(end, '')
  })

test('passfd fails: its peers have figures, and there is no ratio', async t => {
  const asked: Row = {
    ...row(FAILING['the second time']!, { safe: saying('16 cpu=3') }),
    targets: { safe: 1 },
    bound: 3
  }
  const side: SideRow = { of: 'some', side: 'cpu', what: 'CPU', unit: 'µs', better: 'less', peers: ['safe'], bound: 5 }
  const [result, beside] = await measure('some', asked, runsOf(3), { 'some-cpu': side })
  t.deepEqual([result.ours, result.min, result.max], [Number.NaN, Number.NaN, Number.NaN])
  t.is(JSON.parse(JSON.stringify(result)).ours, null)
  t.deepEqual(result.peers, { safe: 16 })
  t.deepEqual(result.ratios, {})
  t.deepEqual(Object.keys(result.failed!), ['passfd'])
  t.deepEqual(beside!.peers, { safe: 3 })
  t.is(beside!.failed, undefined, 'it is said once')
  const lines = table(result).split('\n')
  t.regex(lines[0]!, /safe +16 +16 – 16$/)
  t.regex(lines[1]!, /passfd +failed /)
  t.regex(table(beside!), /^ +safe +3 +3 – 3\n$/)
})

testInCi(
  'a contender that fails: everything is printed all the same, and the exit status says so at the end',
  async t => {
    const path = mkdtempSync(join(tmpdir(), 'passfd-test-'))
    try {
      const script = `#!/bin/sh\nPATH='${process.env.PATH}'\ncase "$*" in *floor*) echo 'no floor' >&2; exit 7 ;; esac\nexec taskset "$@"\n`
      writeFileSync(join(path, 'taskset'), script, { mode: 0o755 })
      const asked = ['--json', '--runs', '1', 'messages-awaited', 'layer-frame']
      const { line, exit } = runBench(asked, { PATH: `${path}:${process.env.PATH}` })
      const { results } = JSON.parse(await line()) as Report
      const [awaited, frame] = results as [Result, Result]
      t.true(awaited.ours > 0)
      t.deepEqual(Object.keys(awaited.failed!), ['C one a call'])
      t.deepEqual(awaited.peers, {})
      t.true(frame.ours > 0)
      const { code, stderr } = await exit
      t.is(code, 1)
      t.regex(stderr, /failed: messages-awaited: C one a call: .*ended with 7\nno floor/)
    } finally {
      rmSync(path, { recursive: true })
    }
  }
)

test('a peer whose value is 0 has no ratio', async t => {
  const [result] = await measure('some', row(saying('8'), { nothing: saying('0'), one: saying('4') }), runsOf(1))
  t.deepEqual(result.peers, { nothing: 0, one: 4 })
  t.deepEqual(result.ratios, { one: 2 })
  t.regex(table(result), /nothing +0 +0 – 0\n/)
})

test('--quick: fewer peers, those that a target names', async t => {
  const absent: Contender = { command: ['/no/such/program'] }
  const asked: Row = {
    ...row(saying('8'), { one: absent, two: saying('4 cpu=2'), three: saying('2 cpu=1') }),
    targets: { two: 1 }
  }
  const side: SideRow = {
    of: 'some',
    side: 'cpu',
    what: 'CPU',
    unit: 'µs',
    better: 'less',
    peers: ['three'],
    targets: { three: 2 }
  }
  t.deepEqual((await measure('some', asked, QUICK))[0].peers, { two: 4 })
  t.deepEqual((await measure('some', asked, QUICK, { side }))[0].peers, { two: 4, three: 2 })
  t.deepEqual((await measure('some', { ...asked, targets: {} }, { ...QUICK, runs: 1 }))[0].failed, {
    one: "/no/such/program can't be run (spawn /no/such/program ENOENT)"
  })
  const { effort, quick } = parseArguments(['--quick'], names)
  t.true(quick)
  t.deepEqual(effort, QUICK)
  t.is(parseArguments(['--quick', '--runs', '7'], names).effort.runs, 7)
})

test('a row may say how many runs it needs, unless somebody else does', async t => {
  const runs = async (few: number, effort: Partial<Effort>) =>
    (await measure('some', { ...row(saying('8'), { one: saying('4') }), runs: few }, { ...WHOLE, ...effort }))[0]
  t.is((await runs(2, {})).runs, 2)
  t.is((await runs(2, parseArguments(['--runs=3'], names).effort)).runs, 3)
  t.is((await runs(2, parseArguments(['--quick'], names).effort)).runs, QUICK.runs)
  t.is((await runs(2, {})).ratioIntervals, undefined)
  const many = await runs(CPU_RUNS, {})
  t.is(many.runs, 10)
  t.deepEqual(many.ratioIntervals, { one: { min: 2, max: 2 } })
  t.regex(table(many), /98 % interval 2 – 2/)
})

test('both ends where the kernel likes: for how much of the time they were on one core', async t => {
  const pinned = (far: string): Contender => ({
    command: [
      'taskset',
      '-c',
      '0',
      'sh',
      '-c',
      `taskset -c ${far} sleep 100 & echo ready; while read line; do sleep 0.2; echo 5; done; kill $!`
    ]
  })
  const [result] = await measure('some', row(pinned('0'), { alone: saying('4') }), runsOf(1))
  t.is(result.sameCore?.passfd, 100)
  t.regex(table(result), /100 % of the time on one core/)
  const [elsewhere] = await measure('some', { ...row(pinned('0'), {}), placement: 'sharing two cores' }, runsOf(1))
  t.is(elsewhere.sameCore, undefined, 'that is known')
})

test('the spread of several whole runs', t => {
  const result = (name: string, ours: number, ratios: Record<string, number>) =>
    ({ name, ours, ratios }) as unknown as Result
  const spread = spreadOf([
    [result('one', 10, { c: 2, gone: 1 }), result('two', 5, {}), result('failed', Number.NaN, {})],
    [result('one', 11, { c: 3 }), result('failed', 4, {})],
    [result('one', 12, { c: 2.5 }), result('two', 5, {}), result('failed', 4, {})]
  ])
  t.deepEqual(spread, {
    one: {
      ours: { min: 10, max: 12, median: 11, spread: 9.09 },
      ratios: { c: { min: 2, max: 3, median: 2.5, spread: 20 } }
    }
  })
  t.regex(spreadTable(spread, 3), /3 whole runs.*\none: passfd ± 9\.09 %\n +× c +2 – 3 +± 20 %$/s)
})

testIf(conditionsMissing(), 'what the figures depend on', async t => {
  const { costs, kernel, load, busy, ...rest } = await readConditions()
  t.true(load >= 0 && busy >= 0 && busy <= 100)
  for (const name of ['wakeOneCore', 'futexOneCore', 'pageFault', 'hugePageFault', 'systemCall'])
    t.true(costs[name]! > 0, name)
  t.true(costs.systemCall! / 1000 < costs.wakeOneCore!, 'a wake-up is more than a system call')
  const text = describeConditions({ costs, kernel, load, busy, ...rest, warning: 'much else' })
  t.regex(text, /a wake-up by eventfd on one core [\d.,]+ µs.*a page fault [\d.,]+ ns.*\nNOT QUIET: much else$/s)
})

test('a contender that says nothing any more is ended', async t => {
  const silent: Contender = { command: ['sh', '-c', 'echo ready; exec sleep 100'] }
  const running = await startContender(silent, 'unpinned', {}, 1000)
  await t.throwsAsync(running.measure(), { message: /said nothing for 1 s/ })
})

test('a contender that does not end, likewise', async t => {
  const staying: Contender = { command: ['sh', '-c', 'echo ready; exec sleep 100'] }
  const running = await startContender(staying, 'unpinned', {}, 1000)
  await t.throwsAsync(running.end(), { message: /said nothing for 1 s/ })
})

test('a contender whose program is not there', async t => {
  const absent: Contender = { command: ['/no/such/program'] }
  const [{ failed }] = await measure('some', row(absent, {}), runsOf(1))
  t.regex(failed!.passfd!, /^\/no\/such\/program can't be run \(.*ENOENT\)$/)
})

test('a contender that is not ready, likewise', async t => {
  const talking: Contender = { command: ['sh', '-c', 'echo hello; read line'] }
  const [{ failed }] = await measure('some', row(saying('8'), { talking }), runsOf(1))
  t.regex(failed!.talking!, /is not ready but says hello/)
})

testFull('usocket: descriptors a second, and how many of them were lost', async t => {
  t.is(usocketMissing(), undefined)
  for (const workload of ['descriptors', 'request-descriptor'])
    t.regex(await measuredBy('peers/usocket.mjs', workload), /^\d+(\.\d+)? \d+$/)
})

test('a row that is measured beside another one asks for peers that this has, and shows them', t => {
  for (const [name, { of, peers, targets }] of sideRows) {
    for (const peer of peers) t.true(peer in rows.get(of)!.peers, `${name}: ${peer}`)
    for (const peer of Object.keys(targets ?? {})) t.true(peers.includes(peer), `${name}: ${peer}`)
  }
})

test('each row asks for ratios to peers that it has, whose programs exist', t => {
  for (const [name, asked] of rows) {
    for (const peer of Object.keys(asked.targets ?? {})) t.true(peer in asked.peers, `${name}: ${peer}`)
    for (const { command } of [asked.ours, ...Object.values(asked.peers)])
      for (const argument of command) if (/\.(mjs|py)$/.test(argument)) t.true(existsSync(argument), argument)
  }
})
