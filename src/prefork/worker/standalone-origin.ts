/** A worker that no supervisor has started: it binds its listeners itself, and its channel has no peer. */
import { PassfdError } from '../../base/errors.ts'
import { connect, pair } from '../../channel/connect.ts'
import { Descriptor } from '../../descriptor/descriptor.ts'
import { removeFile } from '../../os/socket-name.ts'
import { type Bound, bind, closeBound } from '../../serving/bound-socket.ts'
import type { ListenerGrant } from '../../serving/listener-grant.ts'
import type { ListenerSpec } from '../../serving/specs.ts'
import type { WorkerOrigin } from './worker-origin.ts'

/** The answers that a supervisor would give. */
const STANDALONE = { idleGrace: 1000, stopTimeout: 30_000, killTimeout: 5000 }

/** Binds the listeners. Rejects with the system's error, and nothing is left open then. */
export async function standaloneOrigin(
  specs: ReadonlyMap<string, ListenerSpec>,
  lameDuck: number
): Promise<WorkerOrigin> {
  const listeners = new Map<string, ListenerGrant>()
  const bound = await bindAll(specs)
  for (const { name, descriptor, backlog, own } of bound)
    listeners.set(name, { lane: 0, listener: descriptor, backlog, own })
  const [channel, theirs] = pair()
  const nobody = await connect(theirs)
  nobody.unref().serve(message => {
    if (message.isRequest) throw new PassfdError('NOT_SUPERVISED')
  })
  return {
    slot: 0,
    id: 1,
    supervised: false,
    isShared: () => false,
    channel: channel.unref(),
    listeners,
    ...STANDALONE,
    lameDuck,
    handsOver: () => {},
    ready: async () => {},
    stopping: async () => ({ last: true, orphan: false }),
    leave: async () => {
      await Promise.all(bound.map(({ file }) => file && removeFile(file)))
    },
    exit: code => process.exit(code)
  }
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
