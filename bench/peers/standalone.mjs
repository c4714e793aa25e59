/** A worker of passfd/prefork that no supervisor has started. What is measured is its CPU time. */
import { joinSupervisor } from '../../dist/prefork/index.js'
import { listenAt, near, newServer, role, untilEnd } from '../prefork.mjs'

async function parent() {
  const worker = await joinSupervisor({ standalone: { bench: listenAt }, signals: false })
  await worker.listen('bench', newServer())
  await worker.ready()
  await untilEnd(() => process.exit())
}

await { near: () => near({ strict: true, price: true }), parent }[role]()
