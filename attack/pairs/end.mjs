// One of the two processes of a scenario: node end.mjs SCENARIO near|far FOLDER. It does what its parent says by Node's own channel, and reports.
import { backTo, calmOpenFiles } from './open-files.mjs'
import { Round } from './round.mjs'

const [, , name, side, folder] = process.argv
const scenario = await import(`./scenarios/${name}.mjs`)
/** What nobody caught, since the last round. */
let uncaught = []
process.on('uncaughtException', error => uncaught.push(`uncaught: ${error?.stack ?? error}`))
process.on('unhandledRejection', error => uncaught.push(`unhandled: ${error?.stack ?? error}`))
process.on('disconnect', () => process.exit())

let mine
try {
  mine = side === 'far' ? await scenario.far(folder) : await scenario.near(folder)
} catch (error) {
  process.send({ thrown: `${name}, ${side}: ${error?.stack ?? error}` })
}
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
  /** `died`: a process has ended in this round. */
  async finish({ died }) {
    await round.finish()
    // What a hostile peer, or one that was killed, has put into a store stays there
    if (died || process.env.HOSTILE !== undefined) await mine.tidy?.()
    return { outcomes: round.outcomes, problems: round.problems }
  },
  /** What is open when nothing is under way any more. */
  facts: calmOpenFiles,
  /** Until as much is open as `before`; says what else is. */
  settle: backTo
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
if (mine !== undefined) process.send({ ready: true, variants: scenario.variants })
