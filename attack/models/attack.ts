/** Random schedules of the real classes, over a kernel in memory (`kernel.ts`): see `connections.ts`, `supervisor.ts`, `takeover.ts`. */
import { type Attack, chosenOf, type Settings, shareOut } from '../attack.ts'
import { Unable } from '../needs.ts'
import { connections } from './connections.ts'
import { explore, type Model } from './explore.ts'
import { supervisor } from './supervisor.ts'
import { takeover } from './takeover.ts'

export const MODELS: Record<string, Model<any>> = { connections, supervisor, takeover }
const PARTS = Object.keys(MODELS)

export const models: Attack = {
  promise:
    'At every step a connection has one owner, one process serves, and one has the state, whatever happens in whatever order. Nothing is lost unless its owner dies.',
  what: 'Runs channels, supervisors with their workers, and takeovers of up to four processes on a kernel in memory that lets a random schedule decide what happens next: events, faults, deaths.',
  needs: [],
  parts: PARTS,
  count: 30_000,
  sample: 600,
  time: 3_600_000,
  run
}

function run(settings: Settings): ReturnType<Attack['run']> {
  const counts = { schedules: 0, moves: 0 }
  return shareOut(settings, chosenOf(PARTS, settings), counts, async (part, share) => {
    const { schedules, moves, found } = await explore(MODELS[part]!, share)
    share.tell('schedules', schedules)
    share.tell('moves', moves)
    share.log(`${part}: ${schedules} schedules, ${moves} moves`)
    if (found !== undefined) return share.found(found.text)
    if (schedules < share.count && schedules <= (MODELS[part]!.scenarios?.length ?? 0))
      throw new Unable('no random schedule was tried: the time was over')
  })
}
