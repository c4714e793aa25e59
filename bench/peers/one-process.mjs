/** One plain process that serves alone. The variant `price`: what is measured is its CPU time. */
import { once } from 'node:events'
import { listenAt, near, newServer, role, untilEnd, variant } from '../prefork.mjs'

async function parent() {
  const server = newServer().listen(listenAt)
  await once(server, 'listening')
  await untilEnd(() => process.exit())
}

await { near: () => near({ price: variant === 'price' }), parent }[role]()
