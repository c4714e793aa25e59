/** A supervisor with a program that does not know passfd. Other processes ask at its desk. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Supervisor } from '../../../build/dist/prefork/index.js'
import { answerOf } from './answer.mjs'

const PROGRAM = fileURLToPath(new URL('../program.mjs', import.meta.url))

export async function far(folder) {
  const supervisor = new Supervisor({
    program: [process.execPath, PROGRAM, join(folder, 'web')],
    workers: 1,
    listeners: {},
    spawn: { stdio: 'ignore' }
  })
  supervisor.on('report', () => {})
  supervisor.on('worker', ({ pid }) => {
    const [, name, token] = /\0PASSFD_DESK=(\S+) (\w+)/.exec(readFileSync(`/proc/${pid}/environ`, 'latin1'))
    writeFileSync(join(folder, 'desk'), JSON.stringify({ name, token }))
  })
  await supervisor.start()
  return {}
}

export function near(folder) {
  return {
    async run(round) {
      const status = await round.attempt('request', () => answerOf(join(folder, 'web')))
      if (status !== 200) round.problems.push(`the answer has the status ${status}`)
    }
  }
}
