/** One plain process that serves alone. */
import { once } from 'node:events'
import { listenAt, near, newServer, role, untilEnd } from '../prefork.mjs'

async function parent() {
  const server = newServer().listen(listenAt)
  await once(server, 'listening')
  await untilEnd(() => process.exit())
}

await { near: () => near(), parent }[role]()
