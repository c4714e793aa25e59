/** passfd/prefork. The variant is the balance: `per-worker`, `shared`, or `dispatch` (round robin). */
import { listenAt, mode, near, newReceiver, newServer, role, untilEnd, variant, WORKERS } from '../prefork.mjs'

const load = () => import('../../dist/prefork/index.js') // the near end needs none of it

async function parent() {
  const { Supervisor } = await load()
  const supervisor = new Supervisor({
    entry: new URL(import.meta.url),
    spawn: { args: [process.argv[2], 'worker'] },
    listeners: { bench: listenAt },
    workers: WORKERS,
    balance: variant === 'dispatch' ? { dispatch: 'round-robin' } : variant
  })
  await supervisor.start()
  await untilEnd(
    () => supervisor.stop(),
    () => supervisor.reload()
  )
}

async function worker() {
  const { joinSupervisor } = await load()
  const joined = await joinSupervisor()
  if (mode === 'bare') await joined.receive('bench', newReceiver())
  else await joined.listen('bench', newServer())
  await joined.ready()
}

await { near: () => near({ strict: true, dispatches: variant === 'dispatch' }), parent, worker }[role]()
