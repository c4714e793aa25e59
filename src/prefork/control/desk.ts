/**
 * What a process of an unmodified program asks its supervisor when it calls `listen()`: one packet on a connection of its own, answered by one packet.
 * The process waits for the answer without its event loop, because `listen()` of Node has bound the socket when it returns. The two may run
 * different releases of passfd, so each ignores fields that it does not know.
 */
import type { ListenAddress } from '../../serving/bound-socket.ts'
import type { Join, Welcome } from './control.ts'

/** Where the program asks: the abstract name of the socket, a space, and the worker's token. */
export const DESK_VARIABLE = 'PASSFD_DESK'
/** The files of the supervisor's sockets, as JSON, if there are some when the process is started: src/preload.cts keeps the program from removing them. */
export const PATHS_VARIABLE = 'PASSFD_PATHS'
/** Set if the program says itself that it is ready: the option `waitReady`. */
export const WAIT_READY_VARIABLE = 'PASSFD_WAIT_READY'
/** The worker's slot; the second name is the one of pm2. */
export const SLOT_VARIABLES = ['PASSFD_SLOT', 'NODE_APP_INSTANCE'] as const
/** The most bytes of a packet. */
export const MAX_PACKET = 64 * 1024

/** Where to listen. */
export type WantedAddress =
  | { port: number; host?: string; ipv6Only?: boolean; backlog?: number }
  | { path: string; mode: number; backlog?: number }
  | { type: 'udp4' | 'udp6'; port: number; address?: string }

export interface Ask {
  /** Which worker's process asks. */
  token: string
  /** Undefined: the process only reports what it has left. */
  wanted?: WantedAddress
  /** How many times this process has asked for the same address with port 0: each time is another listener. */
  nth: number
  /**
   * What its servers have left since the last time: names, with the `id` of Granted. Programs that look for a free port listen there, close that, and
   * listen there again in the same turn of the event loop, in which nothing is sent on the control channel.
   */
  left?: [name: string, id: number][]
  join: Join
}

/** With the answer come the listener, and then the ends of the control channel and of the application's, if this process becomes the worker. */
export interface Granted {
  type: 'granted'
  /** The worker's own number of this grant. What it says later of an earlier grant of the listener is late. */
  id: number
  name: string
  address: ListenAddress
  own: boolean
  /** Undefined: the supervisor decides which worker accepts. */
  lane?: number
  backlog?: number
  welcome?: Omit<Welcome, 'listeners'>
  /** The supervisor's. */
  pid: number
}

/** Another process of this worker listens already, or the supervisor does not know the worker: this process listens as if there were no passfd. */
export interface NotTheWorker {
  type: 'not the worker'
}

/** The answer to a question without `wanted`. Listeners that no other worker serves are closed. */
export interface Left {
  type: 'left'
}

/** The address can't be bound. */
export interface Failed {
  type: 'failed'
  code: string
  errno: number
  message: string
}

export type Answer = Granted | NotTheWorker | Left | Failed
