/** A supervisor with a worker of passfd. All others give the attack their ends of the control channel. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Supervisor } from '../../../build/dist/prefork/index.js'
import { answerOf } from './answer.mjs'

const WORKER = fileURLToPath(new URL('../worker.mjs', import.meta.url))
const WORKERS = 3

export async function far(folder) {
  const supervisor = new Supervisor({
    entry: WORKER,
    workers: WORKERS,
    listeners: { web: { path: join(folder, 'web') } },
    balance: { dispatch: 'round-robin' },
    readyTimeout: 120_000,
    stopTimeout: 1000,
    restart: () => ({ restart: true, delay: 0 }),
    spawn: { stdio: 'ignore', env: { ...process.env, HOSTILE_FOLDER: folder } }
  })
  supervisor.on('report', () => {})
  await supervisor.start()
  // A supervisor stops if a worker ends before all are ready. So the others come now
  if (process.env.HOSTILE !== undefined) {
    writeFileSync(join(folder, 'hostile'), '')
    for (const { pid } of supervisor.workers.slice(1)) process.kill(pid, 'SIGKILL')
  }
  return {}
}

export function near(folder) {
  return {
    async run(round) {
      for (let number = 0; number < 3; number++)
        await round.attempt('request', async () => {
          const status = await answerOf(join(folder, 'web'))
          if (status !== 200) round.problems.push(`the answer has the status ${status}`)
        })
    }
  }
}
