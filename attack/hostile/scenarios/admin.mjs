/** A supervisor with an admin channel: a client asks for its status, its metrics, its events and the lines of its workers. */
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { connect } from '../../../build/dist/index.js'
import { Supervisor } from '../../../build/dist/prefork/index.js'
import { answerOf } from './answer.mjs'

const WORKER = fileURLToPath(new URL('../../pairs/worker.mjs', import.meta.url))

export async function far(folder) {
  const supervisor = new Supervisor({
    entry: WORKER,
    workers: 1,
    listeners: { web: { path: join(folder, 'web') } },
    admin: join(folder, 'admin'),
    spawn: { stdio: 'lines' }
  })
  supervisor.on('report', () => {})
  await supervisor.start()
  return {}
}

export function near(folder) {
  return {
    async run(round) {
      const channel = await round.settled('connect', connect(join(folder, 'admin')))
      if (channel === undefined) return
      channel.on('message', () => {})
      const status = await round.attempt('status', () => channel.request({ command: 'status' }))
      if (status?.workers.length !== 1) round.problems.push(`the status is ${JSON.stringify(status)}`)
      await round.attempt('subscribe', () => channel.request({ command: 'subscribe', lines: true, last: 5 }))
      const metrics = await round.attempt('metrics', () => channel.request({ command: 'metrics' }))
      if (!`${metrics}`.includes('# EOF')) round.problems.push(`the metrics are ${metrics}`)
      await round.settled('close', channel.close())
      await round.attempt('request', () => answerOf(join(folder, 'web')))
    }
  }
}
