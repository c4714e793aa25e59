/** What is taken from a pair of processes. */
import type { Random } from '../../test/helpers/random.ts'
import type { Ends, Side } from '../pairs/ends.ts'
import { firstFree, type Ground, sizesOf } from './ground.ts'

export interface Victim {
  readonly ground: Ground
  readonly ends: Ends
  readonly side: Side
  readonly random: Random
  /** For how long a process is stopped, in ms. */
  readonly freeze: number
}

/** What was taken, for the report; and how it is given back. */
export interface Taken {
  readonly what: string
  lift(): void | Promise<void>
}

interface Harm {
  /** Nothing may fail by it. */
  readonly isHarmless?: boolean
  /** Node itself ends a process that gets no memory, and libuv one that gets no watch (uv__io_poll()). */
  readonly endsNode?: boolean
  /** Undefined: this machine can't. */
  take(victim: Victim): Promise<Taken | undefined>
}

const HOUR = 3_600_000
/** How long a promise may take: pairs/round.mjs. */
const PATIENCE = 60_000
/** After so many ms, when time limits have begun. */
const JUMP = 300
/** More than a pair has open, so that it is not the limit of open files that it meets; and more descriptors are in flight. */
const RIGHTS = { limit: 300, inFlight: 400 }
const SIGNALS = { stop: 'SIGSTOP', go: 'SIGCONT' } as const

export const HARMS = {
  /** As few numbers are free for open files. */
  files: {
    async take({ ground, ends, side, random }) {
      const pid = ends.pid(side)
      const free = random.integer(0, 15)
      await ground.limit(pid, 'files', firstFree(pid) + free)
      return { what: `${free} numbers for open files`, lift: () => ground.limit(pid, 'files') }
    }
  },
  /** Sending descriptors fails by ETOOMANYREFS. */
  rights: {
    async take({ ground, ends, side }) {
      const pid = ends.pid(side)
      await ground.flight(RIGHTS.inFlight)
      await ground.limit(pid, 'files', RIGHTS.limit)
      return {
        what: 'no descriptor in flight',
        async lift() {
          await ground.flight(0)
          await ground.limit(pid, 'files')
        }
      }
    }
  },
  /** mmap(2), brk(2) and so malloc(3) fail. */
  memory: {
    endsNode: true,
    async take({ ground, ends, side, random }) {
      const pid = ends.pid(side)
      const resource = random.pick(['memory', 'data'] as const)
      const more = random.chance(0.2) ? 0 : random.magnitude(4096, 1_000_000)
      await ground.limit(pid, resource, sizesOf(pid)[resource] + more)
      return { what: `${more} bytes more of ${resource}`, lift: () => ground.limit(pid, resource) }
    }
  },
  /** No thread and no process can be started. */
  processes: {
    async take({ ground, ends, side }) {
      const pid = ends.pid(side)
      await ground.limit(pid, 'processes', 1)
      return { what: 'no new thread', lift: () => ground.limit(pid, 'processes') }
    }
  },
  /** No byte or no file more in the folder of the sockets, where the temporary files are, too. */
  disk: {
    async take({ ground, random }) {
      const what = random.pick(['bytes', 'files'] as const)
      const whose = ground.hasQuotas ? random.pick(['root', 'user'] as const) : 'root'
      ground.fill(what, whose)
      return {
        what: `no more ${what} on the disk${whose === 'user' ? ' for this user' : ''}`,
        lift: () => ground.empty()
      }
    }
  },
  readonly: {
    async take({ ground }) {
      if ((await ground.readOnly(true)) !== 0) return undefined // a file is open for writing
      return { what: 'a read-only folder', lift: async () => void (await ground.readOnly(false)) }
    }
  },
  /** No folder for temporary files. */
  temporary: {
    async take({ ground }) {
      ground.hideTemporary(true)
      return { what: 'no folder for temporary files', lift: () => ground.hideTemporary(false) }
    }
  },
  /** /proc is empty, or has only processes, or only this user's. */
  proc: {
    take({ ground, random }) {
      const [type, options] = random.pick([
        ['tmpfs', 'size=4k'],
        ['proc', 'subset=pid'],
        ['proc', 'hidepid=2']
      ] as const)
      return hide(ground, '/proc', type, options)
    }
  },
  dev: { take: ({ ground }) => hide(ground, '/dev') },
  sys: { take: ({ ground }) => hide(ground, '/sys') },
  /** The time of day jumps, there and back. */
  clock: {
    isHarmless: true,
    async take({ ground, random }) {
      const ahead = random.pick([-1, 1]) * random.pick([1000, HOUR, 24 * HOUR, 5 * 365 * 24 * HOUR])
      ground.setClock(ahead)
      return { what: `a clock that jumps by ${ahead / 1000} s`, lift: () => ground.setClock(0) }
    }
  },
  /** A process does nothing for a while. If others wait longer than any of their time limits, the time of day jumps back meanwhile. */
  freeze: {
    async take({ ground, ends, side, freeze }) {
      ends.signal(side, SIGNALS.stop)
      const jumps = freeze > PATIENCE
      const jump = jumps ? setTimeout(() => ground.setClock(-24 * HOUR), JUMP) : undefined
      return {
        what: `a process that is stopped for ${freeze / 1000} s`,
        lift() {
          clearTimeout(jump)
          if (jumps) ground.setClock(0)
          ends.signal(side, SIGNALS.go)
        }
      }
    }
  },
  /** No watch of epoll is left, or a few. */
  watches: {
    endsNode: true,
    async take({ ground, random }) {
      const left = random.integer(0, 7)
      await ground.watches(left)
      return { what: `${left} watches of epoll`, lift: () => ground.watches(100_000) }
    }
  }
} satisfies Record<string, Harm>

export type HarmName = keyof typeof HARMS
export const harmOf = (name: HarmName): Harm => HARMS[name]

async function hide(ground: Ground, target: string, type = 'tmpfs', options = 'size=4k'): Promise<Taken | undefined> {
  if ((await ground.mount(target, type, options)) !== 0) return undefined
  return { what: `${target} as ${type}, ${options}`, lift: () => ground.unmount(target) }
}
