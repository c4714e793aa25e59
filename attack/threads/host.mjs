// node host.mjs SCENARIO FOLDER: the far end of a scenario, and again and again a thread with the near end, which ends in the midst of it.
import { setTimeout as nap } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { backTo, calmOpenFiles } from '../pairs/open-files.mjs'
import { PATIENCE, Round } from '../pairs/round.mjs'

const [, , name, folder] = process.argv
const scenario = await import(`../pairs/scenarios/${name}.mjs`)
let uncaught = []
process.on('uncaughtException', error => uncaught.push(`uncaught: ${error?.stack ?? error}`))
process.on('unhandledRejection', error => uncaught.push(`unhandled: ${error?.stack ?? error}`))
process.on('disconnect', () => process.exit())
const far = await scenario.far(folder)
let before

process.on('message', async ({ how, moment }) => {
  if (how === undefined) {
    // What is open after some rounds is what must be open after each further one
    await far.tidy?.()
    before = await calmOpenFiles()
    process.send({ problems: [] })
    return
  }
  const problems = []
  const round = new Round(true)
  round.alone = true
  await far.prepare?.(round)
  try {
    problems.push(...(await endOf(how, moment)))
  } catch (error) {
    problems.push(`${error?.stack ?? error}`)
  }
  await round.finish()
  await round.attempt('to tidy up', async () => far.tidy?.())
  problems.push(...round.problems, ...uncaught)
  uncaught = []
  if (before !== undefined) problems.push(...(await left()))
  process.send({ problems })
})
process.send({ ready: true })

/** Starts a thread, and ends it when it has done something for `moment` ms. */
async function endOf(how, moment) {
  const thread = new Worker(new URL('thread.mjs', import.meta.url), {
    workerData: { name, folder, how, moment },
    stderr: true
  })
  let stderr = ''
  thread.stderr.setEncoding('utf8').on('data', text => {
    stderr += text
  })
  const problems = []
  let thrown
  thread.on('error', error => {
    thrown = error
  })
  const ended = new Promise(resolve => thread.once('exit', resolve)) // once() would reject with what the thread throws
  thread.on('message', problem => problem !== 'going' && problems.push(problem))
  const going = new Promise(resolve => thread.once('message', resolve))
  await Promise.race([going, ended])
  if (how === 'terminate') {
    await nap(moment)
    await thread.terminate()
  }
  const late = nap(PATIENCE, 'late', { ref: false })
  if ((await Promise.race([ended, late])) === 'late') problems.push('the thread does not end')
  if (thrown !== undefined && thrown.message !== 'thrown on purpose') problems.push(`${thrown.stack}`)
  if (/Error|assert/i.test(stderr) && !stderr.includes('thrown on purpose')) problems.push(stderr)
  return problems
}

async function left() {
  const { open, leak } = await backTo(before)
  if (leak === undefined) before.open = open
  return leak === undefined ? [] : [leak]
}
