// One of the two processes of a scenario: node end.mjs SCENARIO near|far FOLDER. It does what its parent says by Node's own channel, and reports.
import { readdirSync, readlinkSync } from 'node:fs'
import { setTimeout as nap } from 'node:timers/promises'
import { native } from '../../build/dist/os/native.js'
import { PATIENCE, Round } from './round.mjs'

/** For so many turns. */
const CALM = 10
const [, , name, side, folder] = process.argv
const scenario = await import(`./scenarios/${name}.mjs`)
/** What nobody caught, since the last round. */
let uncaught = []
process.on('uncaughtException', error => uncaught.push(`uncaught: ${error?.stack ?? error}`))
process.on('unhandledRejection', error => uncaught.push(`unhandled: ${error?.stack ?? error}`))
process.on('disconnect', () => process.exit())

const mine = side === 'far' ? await scenario.far(folder) : await scenario.near(folder)
let round
const commands = {
  /** `mayFail`: something will be done to the round. `variant`: which of the scenario's. */
  async prepare({ mayFail, variant }) {
    round = new Round(mayFail, variant)
    await mine.prepare?.(round)
  },
  async run() {
    await mine.run(round)
  },
  /** `alone`: the process at the far end has been killed. */
  async check({ alone }) {
    round.alone = alone
    await mine.check?.(round)
  },
  async finish() {
    await round.finish()
    return { outcomes: round.outcomes, problems: round.problems }
  },
  /** What is open when nothing is under way any more: it has not changed for some turns of the loop. */
  async facts() {
    let known
    for (let calm = 0; calm < CALM; ) {
      await nap(2)
      const now = facts()
      calm = native.pendingCloses() === 0 && now.open === known?.open && now.held === known.held ? calm + 1 : 0
      known = now
    }
    return known
  },
  /** Until as much is open as `before`; says what else is. */
  async settle(before) {
    const until = performance.now() + PATIENCE
    for (let turns = 0; ; turns++) {
      const now = native.pendingCloses() === 0 ? facts() : undefined
      // Less is open if Node was about to close a socket when it was counted
      if (now !== undefined && now.open <= before.open && now.held === before.held) return { open: now.open }
      if (performance.now() > until)
        return { leak: `${JSON.stringify(now)} instead of ${JSON.stringify(before)}: ${targets().join(', ')}` }
      await (turns < 20 ? new Promise(setImmediate) : nap(1))
    }
  }
}
process.on('message', async ({ command, given }) => {
  if (command === 'exit') process.exit()
  const report = {}
  try {
    Object.assign(report, await commands[command](given))
  } catch (error) {
    report.thrown = `${error?.stack ?? error}`
  }
  report.uncaught = uncaught
  uncaught = []
  process.send(report)
})
process.send({ ready: true, variants: scenario.variants })

function facts() {
  return { open: readdirSync('/proc/self/fd').length, held: native.held() }
}

/** What is open. */
function targets() {
  return readdirSync('/proc/self/fd').map(number => {
    try {
      return `${number} ${readlinkSync(`/proc/self/fd/${number}`)}`
    } catch {
      return number // that of the folder
    }
  })
}
