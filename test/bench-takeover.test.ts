import { fileURLToPath } from 'node:url'
import type { ExecutionContext } from 'ava'
import { floorMissing, floorProgram } from '../bench/missing.ts'
import { isFull } from './helpers/full.ts'
import { start } from './helpers/process.ts'
import { childrenOf } from './helpers/processes.ts'
import { testIf, testInCi, until } from './helpers/test.ts'

const SHORT = { BENCH_WARM_UP: '1', BENCH_FLOOR_WARM_UP: '1', BENCH_MEASURED: '1', BENCH_PAUSE: isFull ? '2' : '10' }
const PROGRAM = fileURLToPath(new URL('../bench/peers/takeover.mjs', import.meta.url))
const NUMBER = '\\d+(?:\\.\\d+)?'

/** A contender that is ready, and what it says of one measurement. */
async function measured(t: ExecutionContext, program: string, args: readonly string[]) {
  const running = start(program, [...args], { env: { ...process.env, ...SHORT } })
  t.is(await running.line(), 'ready')
  running.child.stdin!.write('\n')
  return { ...running, said: await running.line() }
}

testInCi(
  'takeover with live connections: how long it takes, and for how long nobody accepts; it fails when connections are lost',
  async t => {
    const { child, exit, said } = await measured(t, process.execPath, [PROGRAM, 'state-3'])
    const [, took, queued] = new RegExp(`^(${NUMBER}) queued=(${NUMBER})$`).exec(said) ?? []
    t.true(Number(queued) > 0 && Number(queued) <= Number(took), said)
    const [owner, ...others] = childrenOf(child.pid!)
    t.deepEqual(others, [], 'its predecessors have ended')
    process.kill(owner!, 'SIGKILL')
    const { code, stderr } = await exit
    t.is(code, 1)
    t.regex(stderr, /a connection is lost|ECONNRESET/)
  }
)

for (const variant of ['', ...(isFull ? ['-boot', '-quiet'] : [])])
  testInCi(`takeover of what answers requests${variant}: their 99th percentile, and nothing is left of it`, async t => {
    const { child, exit, said } = await measured(t, process.execPath, [PROGRAM, `requests${variant}`])
    t.regex(said, new RegExp(`^${NUMBER}$`))
    t.true(Number(said) > 0)
    const children = childrenOf(child.pid!)
    t.is(children.length, 1)
    child.stdin!.end()
    const { code, stderr } = await exit
    t.is(code, 0, stderr)
    await until(() => !isAlive(children[0]!), 'the last owner ends')
  })

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

for (const count of [1, 600])
  testIf(floorMissing(), `the floor of a takeover with ${count} descriptors`, async t => {
    const { child, exit, said } = await measured(t, floorProgram, ['takeover', `${count}`])
    t.true(Number(said) > 0, said)
    child.stdin!.end()
    const { code, stderr } = await exit
    t.is(code, 0, stderr)
  })

for (const [workload, ...args] of [['datagrams'], ['copy', '65536']] as const)
  testIf(floorMissing(), `the floor: ${[workload, ...args].join(' ')}`, async t => {
    const { child, exit, said } = await measured(t, floorProgram, [workload, ...args])
    t.true(Number(said) > 0, said)
    child.stdin!.end()
    const { code, stderr } = await exit
    t.is(code, 0, stderr)
  })
