import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArguments } from '../bench/arguments.ts'
import { type Contender, measure, type Result, type Row, type SideRow } from '../bench/measure.ts'
import { usocketMissing } from '../bench/missing.ts'
import { start as startContender } from '../bench/process.ts'
import { table } from '../bench/report.ts'
import { compiled } from './helpers/compiled.ts'
import { isFull } from './helpers/full.ts'
import { start } from './helpers/process.ts'
import { test, testFull, testInCi } from './helpers/test.ts'

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
      const { machine, results, ...rest } = JSON.parse(await line()) as { machine: string; results: Result[] }
      t.regex(machine, /Node v\d+/)
      t.deepEqual(rest, {})
      t.deepEqual(
        results.map(({ name }) => name),
        ['layer-frame', 'descriptors-many']
      )
      const [{ unit, ours, min, max, peers, ratios, runs, lost }, many] = results as [Result, Result]
      t.is(unit, 'ns')
      t.is(runs, 2)
      t.true(min > 0 && min <= ours && ours <= max)
      t.deepEqual(Object.keys(peers), ['without records', 'with a descriptor'])
      t.deepEqual(Object.keys(ratios), Object.keys(peers))
      for (const value of [...Object.values(peers), ...Object.values(ratios)]) t.true(value > 0)
      t.is(lost, undefined)

      t.true(many.ours > 0)
      for (const peer of Object.keys(many.peers)) t.notRegex(peer, /^C |^Python$/)
      const { code, stderr } = await exit
      t.is(code, 0, stderr)
      const lines = stderr.split('\n').filter(text => !/usocket|^npm ci in bench/.test(text) && text !== '')
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
  const [result] = await measure('some', asked, 3)
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
  const [result, beside, ...rest] = await measure('some', asked, 3, { 'some-cpu': side })
  t.deepEqual(result.peers, { one: 4, two: 2 })
  t.deepEqual(result.lost, { two: 0 })
  t.deepEqual(beside, {
    name: 'some-cpu',
    unit: 'µs',
    ours: 6,
    min: 6,
    max: 6,
    peers: { two: 12 },
    ratios: { two: 0.5 },
    targets: { two: 0.2 },
    bound: 5,
    better: 'less',
    runs: 3
  })
  t.deepEqual(rest, [])
  const [ours, two] = table(beside!).split('\n') as [string, string]
  t.regex(ours, /passfd +6 .*bound ≤ 5, missed/)
  t.regex(two, /two +12 .*= 0\.5, bound ≤ 0\.2, missed/)
})

test('a contender that fails ends the run, and says why', async t => {
  const failing: Contender = { command: ['sh', '-c', 'echo ready; read line; echo "two are missing" >&2; exit 3'] }
  await t.throwsAsync(measure('some', row(saying('8'), { failing }), 1), {
    message: /ended with 3\n.*two are missing/s
  })
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
  await t.throwsAsync(measure('some', row(absent, {}), 1), {
    message: /^\/no\/such\/program can't be run \(.*ENOENT\)$/
  })
})

test('a contender that is not ready, likewise', async t => {
  const talking: Contender = { command: ['sh', '-c', 'echo hello; read line'] }
  await t.throwsAsync(measure('some', row(saying('8'), { talking }), 1), { message: /is not ready but says hello/ })
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
