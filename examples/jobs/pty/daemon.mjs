// daemon.mjs
import { once } from 'node:events'
import { spawn } from 'node-pty'
import { Connection } from 'passfd'
import { takeOver } from 'passfd/takeover'

const seat = await takeOver({ path: 'daemon.takeover', listeners: { shell: { path: 'shell.sock' } } })
const sessions = new Set()
await seat.receive('shell', connection => open(connection.toSocket()))
const given = await seat.inherit()
await seat.ready({ freeze, thaw: resume })
resume(given ?? [])
console.log(`process ${process.pid} has ${sessions.size} shells`)
seat.onStop(() => Promise.all([...sessions].map(({ client }) => once(client, 'close')))) // those that could not move

async function open(client) {
  const shell = spawn('/bin/sh', [], { name: 'xterm', encoding: null })
  const terminal = (await Connection.take(shell._socket)).toDuplex() // node-pty has started the shell; we read it from now on
  begin({ pid: shell.pid, terminal, client })
}

function begin(session) {
  const { terminal, client } = session
  sessions.add(session)
  for (const stream of [client, terminal]) stream.on('error', () => {}).once('close', () => end(session))
  client.pipe(terminal).pipe(client)
}

function end(session) {
  if (!sessions.delete(session)) return // it has moved
  session.terminal.destroy() // the shell gets SIGHUP
  session.client.destroy()
}

/** In the old process: the state for the new one. */
async function freeze() {
  const signal = AbortSignal.timeout(1000)
  const moving = [...sessions]
  sessions.clear()
  const frozen = moving.map(async ({ pid, terminal, client }) => {
    client.unpipe(terminal)
    terminal.unpipe(client)
    let taken
    try {
      taken = await Connection.take(client, { signal })
      return { pid, client: taken, terminal: await Connection.take(terminal, { signal }) }
    } catch {
      begin({ pid, terminal, client: taken?.toDuplex() ?? client }) // one side does not read: the session stays here
    }
  })
  return (await Promise.all(frozen)).filter(session => session !== undefined)
}

function resume(given) {
  for (const { pid, terminal, client } of given)
    begin({ pid, terminal: terminal.toDuplex(), client: client.toDuplex() })
}
