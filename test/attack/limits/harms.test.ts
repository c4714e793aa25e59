// In CI only: it needs a compiler and a mount namespace.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { Ground, Tools } from '../../../attack/limits/ground.ts'
import { HARMS } from '../../../attack/limits/harms.ts'
import { Random } from '../../helpers/random.ts'
import { testInCiIf } from '../../helpers/test.ts'

const probe = fileURLToPath(new URL('../../fixtures/attack-probe.mjs', import.meta.url))
/** Nobody else has it. */
const USER = 600_000 + (process.pid % 10_000)
/** What a process meets that lacks it. */
const MISSING = {
  files: /^EMFILE$/,
  memory: /^ENOMEM$/,
  processes: /^EAGAIN$/,
  disk: /^ENOSPC$/,
  readonly: /^EROFS$/,
  temporary: /^ENOENT$/,
  proc: /^(ENOENT|EACCES)$/,
  dev: /^ENOENT$/,
  sys: /^ENOENT$/,
  clock: /^JUMP$/
}

testInCiIf(
  process.getuid!() === 0 ? undefined : 'needs root',
  'each harm takes from a process what it says, and gives it back',
  async t => {
    const tools = new Tools()
    const ground = await Ground.make(tools, USER)
    const { folder, command, environment } = ground
    const [execPath = '', ...execArgv] = [...command, process.execPath]
    const child = fork(probe, [folder], {
      execPath,
      execArgv: [...execArgv, '--expose-gc'],
      env: { ...process.env, ...environment }
    })
    await once(child, 'message')
    const exit = once(child, 'exit')
    const ask = async (name: string): Promise<string> => {
      const answer = Promise.race([once(child, 'message'), exit])
      child.send(name)
      return `${(await answer)[0]}`
    }
    const victim = { ground, ends: { pid: () => child.pid! } as never, side: 'near' as const, freeze: 0 }
    for (const [name, expected] of Object.entries(MISSING))
      for (let seed = 1; seed <= 4; seed++) {
        t.is(await ask(name), 'ok', `${name}, before`)
        const random = new Random(seed)
        // Of what is left to the process: no number, and as much memory as it needs to answer
        if (name === 'files') random.integer = low => low
        if (name === 'memory') {
          random.pick = list => list[0]!
          random.chance = () => false
          random.magnitude = (_, high) => high
        }
        const taken = await HARMS[name as keyof typeof MISSING].take({ ...victim, random })
        t.regex(await ask(name), expected, `${name}: ${taken?.what}`)
        await taken!.lift()
        t.is(await ask(name), 'ok', `${name}, afterwards`)
      }
    child.disconnect()
    await exit
    ground.close()
    tools.close()
  }
)
