/** A server in one process is replaced by that in the other one, with its state. */
import { createServer, connect as dial } from 'node:net'
import { join } from 'node:path'
import { takeOver } from '../../../build/dist/takeover/index.js'

/** A hostile candidate may have its turn and not use it, have the owner freeze, or leave a life pipe that lives on. Then the next one waits until the attempt is over. */
const HOSTILE = process.env.HOSTILE !== undefined
const OPTIONS = { exit: false, signals: false, idleGrace: 0 }

async function seated(folder, round, attemptTimeout) {
  const seat = await takeOver({
    ...OPTIONS,
    freezeTimeout: HOSTILE ? 1000 : round.limit(2000),
    turnTimeout: round.limit(10_000),
    ...(HOSTILE && { attemptTimeout }),
    path: join(folder, 'seat'),
    listeners: { web: { path: join(folder, 'web') } }
  })
  seat.on('report', () => {})
  return seat
}

const naming = name => createServer(socket => socket.on('error', () => {}).end(name))

export function far(folder) {
  return {
    async prepare(round) {
      const seat = await seated(folder, round, 1000)
      await seat.listen('web', naming('far'))
      await seat.ready({ freeze: () => ({ visits: 7 }) })
      round.later(() => seat.stop())
    }
  }
}

export function near(folder) {
  let serves
  return {
    async run(round) {
      serves = false
      const seat = await round.settled('seat', seated(folder, round, 60_000))
      if (seat === undefined) return
      round.later(() => seat.stop())
      const listening = await round.attempt('listen', async () => {
        await seat.listen('web', naming('near'))
        return true
      })
      if (!listening) return
      let state
      const inherited = await round.attempt('inherit', async () => {
        state = await seat.inherit()
        return true
      })
      if (!inherited) return
      // There is none if the predecessor has ended meanwhile, or a hostile candidate was admitted: then this is the first program
      if (state === undefined ? !round.mayFail && process.env.HOSTILE === undefined : state.visits !== 7)
        round.problems.push(`it has inherited ${JSON.stringify(state)}`)
      serves = await round.attempt('ready', async () => {
        await seat.ready()
        return true
      })
    },
    /** A client is answered, by the successor once `ready()` has resolved. */
    async check(round) {
      if (round.alone && !serves) return // its predecessor was killed, and it has not taken over
      const answer = await round.attempt('a client', () => answerAt(join(folder, 'web')))
      if (serves ? answer !== 'near' : !['near', 'far'].includes(answer))
        round.problems.push(`the client was answered ${JSON.stringify(answer)}, serves: ${serves}`)
    }
  }
}

async function answerAt(path) {
  let text = ''
  for await (const part of dial(path)) text += part
  return text
}
