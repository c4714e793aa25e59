/** A worker that no supervisor has started: it binds its listeners itself, and its channel has no peer. */
import { PassfdError } from '../../base/errors.ts'
import type { Channel } from '../../channel/channel.ts'
import { connect, pair, pairWithin } from '../../channel/connect.ts'
import { Descriptor } from '../../descriptor/descriptor.ts'
import { removeOrWarn } from '../../os/socket-name.ts'
import { type Bound, bind, closeBound } from '../../serving/bound-socket.ts'
import type { ListenerGrant } from '../../serving/listener-grant.ts'
import { PlainListeners } from '../../serving/plain-listeners.ts'
import { ServedListeners } from '../../serving/served-listeners.ts'
import type { ListenerSpec } from '../../serving/specs.ts'
import { Worker } from './worker.ts'
import type { WorkerOrigin } from './worker-origin.ts'

/** The answers that a supervisor would give. */
const STANDALONE = { idleGrace: 1000, stopTimeout: 30_000, killTimeout: 5000 }

/** Binds the listeners, and makes a worker that serves them. Rejects with the system's error, and nothing is left open then. */
export async function standaloneWorker(specs: ReadonlyMap<string, ListenerSpec>, lameDuck: number): Promise<Worker> {
  const listeners = new Map<string, ListenerGrant>()
  const bound = await bindAll(specs)
  for (const { name, descriptor, backlog, own } of bound)
    listeners.set(name, { lane: 0, listener: descriptor, backlog, own })
  const [channel, theirs] = pair()
  const served = new ServedListeners({ listeners, isShared: () => false })
  const leave = async (): Promise<void> => {
    await Promise.all(bound.map(({ file }) => file && removeOrWarn(file)))
  }
  return new Worker({ ...origin(lameDuck), channel: idle(channel, await connect(theirs)), leave }, served)
}

/** As `standaloneWorker()`, where the shim is missing: a server's `listen()` binds its address. */
export function plainWorker(specs: ReadonlyMap<string, ListenerSpec>, lameDuck: number): Worker {
  const [channel, nobody] = pairWithin({})
  const leave = async (): Promise<void> => {}
  return new Worker({ ...origin(lameDuck), channel: idle(channel, nobody), leave }, new PlainListeners(specs))
}

function origin(lameDuck: number): Omit<WorkerOrigin, 'channel' | 'leave'> {
  return {
    slot: 0,
    id: 1,
    supervised: false,
    ...STANDALONE,
    lameDuck,
    handsOver: () => {},
    ready: async () => {},
    stopping: async () => ({ last: true, orphan: false }),
    exit: code => process.exit(code)
  }
}

/** A channel without a peer. */
function idle(channel: Channel, nobody: Channel): Channel {
  nobody.unref().serve(message => {
    if (message.isRequest) throw new PassfdError('NOT_SUPERVISED')
  })
  return channel.unref()
}

/** Binds all of them, or none. */
async function bindAll(specs: ReadonlyMap<string, ListenerSpec>): Promise<Bound[]> {
  const attempts = [...specs].map(([name, spec]) => bind(name, spec))
  try {
    return await Promise.all(attempts)
  } catch (error) {
    for (const attempt of await Promise.allSettled(attempts))
      if (attempt.status === 'fulfilled') await closeBound(attempt.value)
    for (const spec of specs.values()) if (spec instanceof Descriptor) spec[Symbol.dispose]()
    throw error
  }
}
