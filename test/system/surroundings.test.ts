// In CI only: it takes two processes through several scenarios in each of the surroundings.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as nap } from 'node:timers/promises'
import { Ends, problemsOf } from '../../attack/pairs/ends.ts'
import { testInCi, testInCiIf } from '../helpers/test.ts'

const SCENARIOS = ['channel', 'connection', 'datagrams', 'prefork', 'store', 'takeover']
/** For two processes of Node and a worker. */
const MEMORY = 160 * 1024 * 1024

/** bash runs `script`, and then the rest of its command line. */
const after = (script: string): string[] => ['bash', '-c', `${script} && exec "$@"`, 'bash']

/** What starts a process in each of the surroundings. */
const SURROUNDINGS: Record<string, readonly string[]> = {
  'user namespaces, one for each process': ['unshare', '--user', '--map-root-user'],
  'time namespaces, whose clocks differ': [
    'bash',
    '-c',
    'exec unshare --time --monotonic $((RANDOM * 100)) --boottime $((RANDOM * 100)) --fork --kill-child "$@"',
    'bash'
  ],
  'a /proc with processes only, and no /sys': [
    'unshare',
    '--mount',
    ...after('mount -t proc -o subset=pid none /proc && mount -t tmpfs none /sys')
  ]
}

/** Undefined: the kernel has it, and lets this process use it. */
function missing([command, ...args]: readonly string[]): string | undefined {
  const { status, stderr, error } = spawnSync(command!, [...args, 'true'], { encoding: 'utf8' })
  return status === 0 ? undefined : `the kernel lacks it: ${error?.message ?? stderr.trim()}`
}

/** They mostly wait, so all go on at once. */
async function problemsIn(command: readonly string[], scenarios = SCENARIOS): Promise<string[]> {
  const problems = await Promise.all(
    scenarios.map(async scenario => {
      const ends = await Ends.start(scenario, undefined, { command })
      try {
        return problemsOf(await ends.round()).map(each => `${scenario}: ${each}`)
      } finally {
        await ends.close()
      }
    })
  )
  return problems.flat()
}

for (const [what, command] of Object.entries(SURROUNDINGS))
  testInCiIf(missing(command), `all works in ${what}`, async t => {
    t.deepEqual(await problemsIn(command), [])
  })

/** A new group with a limit of memory: version 2 of cgroups or 1. Undefined: the kernel has none, or this process may not make one. */
function limitedGroup(): string | undefined {
  const name = `passfd-test-${process.pid}`
  for (const [root, file] of [
    ['/sys/fs/cgroup', 'memory.max'],
    ['/sys/fs/cgroup/memory', 'memory.limit_in_bytes']
  ] as const) {
    const group = join(root, name)
    try {
      mkdirSync(group)
    } catch {
      continue
    }
    try {
      if (existsSync(join(group, file))) {
        writeFileSync(join(group, file), `${MEMORY}`)
        return group
      }
    } catch {
      // this one has no limit of memory
    }
    rmdirSync(group)
  }
  return undefined
}

testInCi('all works in a group of processes with little memory', async t => {
  const group = limitedGroup()
  if (group === undefined) {
    t.log('the kernel lacks it: no group of processes with a limit of memory can be made')
    t.pass()
    return
  }
  try {
    const procs = join(group, 'cgroup.procs')
    t.deepEqual(await problemsIn(after(`echo $$ > ${procs}`), ['prefork']), [])
    while (readFileSync(procs, 'utf8') !== '') await nap(10)
  } finally {
    rmdirSync(group)
  }
})
