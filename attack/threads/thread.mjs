// A thread that goes through a scenario again and again, until it ends or is ended.
import { setImmediate as turn } from 'node:timers/promises'
import { parentPort, workerData } from 'node:worker_threads'
import { Round } from '../pairs/round.mjs'

const { name, folder, how, moment } = workerData
const scenario = await import(`../pairs/scenarios/${name}.mjs`)
/** Those that bind a socket can't do it twice at once. */
const AT_ONCE = name === 'datagrams' ? 1 : 3

for (let number = 0; number < AT_ONCE; number++) void goOn(await scenario.near(folder), number === 0)

async function goOn(near, tells) {
  for (let number = 0; ; number++) {
    const round = new Round(number > 0)
    await near.prepare?.(round)
    await near.run(round)
    await round.finish()
    for (const problem of round.problems) parentPort.postMessage(problem)
    // The first round is over before anything is done to the thread: it must succeed
    const failed = number === 0 ? round.outcomes.filter(([, outcome]) => outcome !== 'ok') : []
    if (failed.length > 0)
      parentPort.postMessage(`it fails: ${failed.map(each => each.slice(0, 2).join(': ')).join(', ')}`)
    if (number === 0 && tells) begin()
    await turn()
  }
}

/** It ends in the midst of a turn of its loop, which traffic has woken. */
function begin() {
  parentPort.postMessage('going')
  if (how === 'terminate') return
  const due = performance.now() + moment
  const look = () => {
    if (performance.now() < due) setImmediate(look)
    else if (how === 'exit') process.exit()
    else throw new Error('thrown on purpose')
  }
  setImmediate(look)
}
