/** What is done to a server under load. */
import { limitOpenFiles } from '../../test/helpers/process.ts'
import type { Random } from '../../test/helpers/random.ts'
import type { Load, Mix } from '../../test/system/load/clients.ts'
import type { Hands } from './hands.ts'
import { isOurs, type Kind, type Server } from './servers.ts'

export interface Scene {
  readonly server: Server
  readonly hands: Hands
  readonly random: Random
  /** The clients of every row. */
  readonly load: Load
}

export interface Fault {
  readonly name: string
  /** How often in a whole run. */
  readonly times: number
  /** It can be done to this one. */
  suits(kind: Kind): boolean
  /** Does it once. */
  once(scene: Scene, turn: number): Promise<void>
  /** Nobody serves meanwhile: clients may be refused. */
  readonly refuses?: boolean
  /** It waits for limits of time, or has many clients: no sample has it. */
  readonly long?: boolean
  /** What processes may write to stderr because of it. */
  readonly writes?: string
  /** What the documentation says of connections that were there while a process got no descriptors, if they may fail. */
  readonly documented?: (kind: Kind) => string | undefined
  /** Clients beside those of every row, and all that connections of the first kind do is wait until the end. */
  readonly clients?: readonly Mix[]
  readonly idle?: number
  /** Other options of a supervisor. */
  readonly options?: object
}

const all = (): boolean => true
const severalWorkers = ({ program }: Kind): boolean => program !== 'takeover'
const sleep = (ms: number): Promise<void> => new Promise(resolve => setTimeout(resolve, ms))

async function anyWorker({ server, random }: Scene): Promise<number> {
  await server.ask('ready', server.workerCount, 0)
  return random.pick(await server.workers())
}

/** It gets no more descriptors for a moment. */
async function starve({ server, hands, random }: Scene, pid: number): Promise<void> {
  await hands.starve(async () => {
    try {
      limitOpenFiles(pid, 3)
      await sleep(random.integer(20, 300))
      limitOpenFiles(pid, 20_000)
    } catch {
      // it has ended
    }
  })
  await server.ask('ready', server.workerCount, 0)
}

async function reloadWith(scene: Scene, boot: string): Promise<void> {
  const { server } = scene
  server.write('boot', boot)
  // It fails, and all that serves goes on
  await server.reload().then(
    () => {
      if (isOurs(server.kind)) throw new Error(`a reload whose workers ${boot} succeeds`)
    },
    () => {}
  )
  server.write('boot', '')
}

/** Kills a worker, or one side of a takeover. */
async function kill(scene: Scene): Promise<void> {
  const { server, hands } = scene
  if (server.kind.program === 'takeover') {
    await killSide(scene)
    return
  }
  const pid = await anyWorker(scene)
  await hands.kill(server, pid)
  await server.ask('ready', server.workerCount, pid)
}

/** Kills the candidate or the owner, at a moment that may be before, in or after its takeover. */
async function killSide({ server, hands, random }: Scene): Promise<void> {
  const side = random.pick(['candidate', 'owner'] as const)
  const moment = random.magnitude(5, 1000)
  const owner = server.program
  let from = Date.now()
  let candidate = 0
  await server
    .replace(async pid => {
      candidate = pid
      await sleep(moment)
      from = Date.now()
      await hands.kill(server, side === 'candidate' ? pid : owner.pid)
    })
    .catch(() => {})
  // The next one takes over from whoever is left, or finds nobody
  await server.replace()
  const { successor } = owner
  if (side === 'candidate' ? successor === candidate : successor === undefined) hands.nobodyServed(from, Date.now())
}

/** Whoever comes is refused while there is no server, and is served by the next one. */
async function beginAgain({ server, load }: Scene): Promise<void> {
  await load.more(5, 'refused')
  await server.again()
  await load.more(100)
}

/** SIGSTOP for a moment, shorter than `hangTimeout`. */
async function freeze(pid: number, ms: number): Promise<void> {
  process.kill(pid, 'SIGSTOP')
  await sleep(ms)
  process.kill(pid, 'SIGCONT')
}

export const FAULTS: readonly Fault[] = [
  { name: 'none', times: 1, suits: all, once: ({ load }) => load.more(300) },
  {
    name: 'reload',
    times: 100,
    suits: all,
    once: ({ server }) => server.reload()
  },
  {
    name: 'replace',
    times: 30,
    suits: ({ program }) => program === 'prefork',
    once: ({ server }) => server.replace()
  },
  {
    name: 'scale',
    times: 30,
    suits: severalWorkers,
    async once({ server, random }) {
      await server.ask('scale', random.integer(1, 5))
      await server.ask('scale', server.workerCount)
    }
  },
  { name: 'kill', times: 100, suits: all, once: kill },
  {
    name: 'stop',
    times: 10,
    suits: all,
    refuses: true,
    async once(scene) {
      await scene.server.stop()
      await beginAgain(scene)
    }
  },
  {
    name: 'freeze',
    times: 30,
    suits: all,
    async once(scene) {
      const { server, random, load } = scene
      const pid = random.chance(0.3) ? server.pid : await anyWorker(scene)
      await freeze(pid, random.magnitude(10, 1500))
      await load.more(20)
    }
  },
  {
    name: 'block',
    times: 30,
    suits: all,
    async once(scene) {
      const { server, random, load } = scene
      server.write('block', `${random.magnitude(50, 1500)}`)
      process.kill(await anyWorker(scene), 'SIGUSR2')
      await load.more(50)
    }
  },
  {
    name: 'hang',
    times: 6,
    // Nobody kills a worker of the others: theirs would hang for ever
    suits: ({ program }) => program === 'prefork',
    async once(scene) {
      const { server, hands } = scene
      const pid = await anyWorker(scene)
      await hands.stop(server, pid)
      await server.ask('ready', server.workerCount, pid)
    },
    long: true,
    options: { hangTimeout: 10_000 }
  },
  {
    name: 'limit',
    times: 30,
    suits: severalWorkers,
    async once(scene) {
      await starve(scene, await anyWorker(scene))
      await scene.load.more(30)
    },
    writes: 'ERR_PASSFD_DESCRIPTORS_TRUNCATED',
    documented: ({ balance }) =>
      balance === 'per-worker' || balance === 'shared'
        ? 'at its limit of open files a worker closes waiting connections without an answer, as Node does'
        : undefined
  },
  {
    name: 'boot',
    times: 12,
    suits: all,
    async once(scene, turn) {
      const { server, random } = scene
      // Nobody ends a candidate that hangs before it asks for its turn
      const hows =
        server.kind.program === 'takeover' ? ['exit', 'throw'] : ['exit', 'throw', 'hang', 'exit', 'throw', 'block']
      const how = hows[turn % hows.length]!
      await reloadWith(scene, how)
      if (server.kind.program === 'takeover') return
      // A worker dies, and those in its place, too, for a while
      const pid = await anyWorker(scene)
      server.write('boot', random.pick(['exit', 'throw']))
      await scene.hands.kill(server, pid)
      await sleep(random.integer(50, 500))
      server.write('boot', '')
      await server.ask('ready', server.workerCount, pid)
    },
    writes: 'it fails at its start',
    long: true,
    options: { readyTimeout: 60_000 }
  },
  {
    name: 'supervisor',
    times: 10,
    suits: severalWorkers,
    refuses: true,
    async once(scene) {
      await scene.hands.kill(scene.server, scene.server.pid)
      await beginAgain(scene)
    }
  },
  {
    name: 'slow',
    times: 10,
    suits: all,
    clients: [
      { kind: 'slow', name: 'slow', clients: 20, pause: 60, size: 200_000 },
      { kind: 'halfClosed', name: 'half-closed', clients: 10, think: 20 },
      { kind: 'slow', name: 'slow, IPv6', clients: 5, pause: 60, size: 200_000 }
    ],
    once: async ({ server, load }) => {
      await server.reload()
      await load.more(20)
    }
  },
  {
    name: 'idle',
    times: 5,
    suits: all,
    idle: 2000,
    long: true,
    once: ({ server }) => server.reload()
  }
]
