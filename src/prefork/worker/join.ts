/** `joinSupervisor`: how a worker's program finds its supervisor, or does without. */

import { isMainThread } from 'node:worker_threads'
import { checkInteger, checkType } from '../../base/check.ts'
import { PassfdError } from '../../base/errors.ts'
import { type KnownOptions, readOptions } from '../../base/known-options.ts'
import { MAX_TIMEOUT } from '../../base/timers.ts'
import { connect, connectOwn } from '../../channel/connect.ts'
import { CHANNEL_OPTIONS, type ChannelOptions } from '../../channel/options.ts'
import { type BindSpec, Descriptor } from '../../descriptor/descriptor.ts'
import { foreignSystem, native } from '../../os/native.ts'
import { ServedListeners } from '../../serving/served-listeners.ts'
import { readListeners } from '../../serving/specs.ts'
import {
  APPLICATION_NUMBER,
  CONTROL_NUMBER,
  type FromSupervisor,
  type FromWorker,
  LEAST,
  MAX_UNCONFIRMED,
  NEWEST,
  SUPERVISOR_VARIABLE,
  type Welcome
} from '../control/control.ts'
import { plainWorker, standaloneWorker } from './standalone-origin.ts'
import { SupervisedOrigin } from './supervised-origin.ts'
import { Worker } from './worker.ts'

export interface JoinOptions {
  /** The listeners to open if no supervisor has started the program. Default: joinSupervisor() rejects. */
  standalone?: Record<string, BindSpec>
  /**
   * Sets how long a standalone program serves as before after it was told to stop, in ms; a second TERM or INT ends that time. Under a
   * supervisor the supervisor's option counts. Default 0.
   */
  lameDuck?: number
  /** Lets TERM and INT stop the worker gracefully; a second one closes the remaining connections. Default true. */
  signals?: boolean
  /** Options of `worker.channel` on this side. */
  channel?: ChannelOptions
}

const JOIN_OPTIONS = {
  standalone: true,
  lameDuck: true,
  signals: true,
  channel: true
} as const satisfies KnownOptions<JoinOptions>

/** The time limit of the supervisor's answers, in ms. */
const ANSWER = 30_000

let joined: Promise<Worker> | undefined

/**
 * Joins the supervisor that has started this process.
 *
 * A standalone program opens the listeners itself, and stops on TERM and INT; the code is the same. On macOS and other systems than Linux this
 * works, too: Node binds each address at `worker.listen()`, which rejects if that fails, and what needs a Descriptor throws ERR_PASSFD_PLATFORM.
 * Further calls return the same Worker.
 *
 * Rejects with ERR_PASSFD_NOT_SUPERVISED if no supervisor has started it and `standalone` is not given, or with the system's error if a listener
 * can't be bound.
 */
export async function joinSupervisor(given: JoinOptions = {}): Promise<Worker> {
  const options = readOptions(given, JOIN_OPTIONS)
  checkType(options.signals, 'signals', 'true or false', value => typeof value === 'boolean')
  if (options.channel !== undefined) options.channel = readOptions(options.channel, CHANNEL_OPTIONS, 'options.channel')
  if (options.lameDuck !== undefined) checkInteger(options.lameDuck, 'options.lameDuck', 0, MAX_TIMEOUT)
  const { [SUPERVISOR_VARIABLE]: parent } = process.env
  joined ??= parent === undefined ? standAlone(options).catch(again) : joinParent(Number(parent), options)
  return joined
}

/** Called after a failed attempt, which changed nothing: the next call tries again. */
function again(error: Error): never {
  joined = undefined
  throw error
}

async function standAlone({ standalone, signals = true, lameDuck = 0 }: JoinOptions): Promise<Worker> {
  if (standalone === undefined) throw new PassfdError('NOT_SUPERVISED')
  const specs = readListeners(standalone, 'options.standalone')
  const worker = foreignSystem === undefined ? await standaloneWorker(specs, lameDuck) : plainWorker(specs, lameDuck)
  if (signals) stopOnSignals(worker)
  return worker
}

/** @internal TERM and INT stop the worker; the second one closes the remaining connections. Returns the listeners. */
export function stopOnSignals(worker: Worker): (() => void)[] {
  let told = false
  const stop = (): void => {
    // The first signal adds nothing to the supervisor's own order, because systemd sends it to all processes of a service
    if (told) worker.hurry()
    else void worker.end({ last: false, told: false, signal: true })
    told = true
  }
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, stop)
  return [stop]
}

/** @internal If it hangs when its supervisor is killed, only the kernel can end it. `parent`: the supervisor, its parent. */
export function orphanedBy(
  parent: number,
  { stopTimeout, killTimeout }: Pick<Welcome, 'stopTimeout' | 'killTimeout'>
): void {
  if (isMainThread) native.dieAfterParent(Math.ceil((stopTimeout + killTimeout) / 1000) + 1, parent)
}

async function joinParent(parent: number, { signals = true, channel: options = {} }: JoinOptions): Promise<Worker> {
  delete process.env[SUPERVISOR_VARIABLE] // its children are not workers
  const authorize = (): boolean => true // the process that has started this one
  const control = await connectOwn<FromSupervisor, FromWorker>(Descriptor.adopt(CONTROL_NUMBER), {
    authorize,
    maxUnclaimed: 4 * MAX_UNCONFIRMED,
    requestTimeout: ANSWER
  })
  const channel = await connect(Descriptor.adopt(APPLICATION_NUMBER), { ...options, authorize })
  const join = { type: 'join', version: LEAST, newest: NEWEST, debugPort: process.debugPort } as const
  const welcome = await control.request<Welcome>(join, { descriptors: 253 })
  orphanedBy(parent, welcome)
  // The control channel keeps the process running, because a worker lives until it is stopped
  const origin = new SupervisedOrigin(welcome, parent, control, channel.unref())
  const listeners = new ServedListeners(origin)
  const worker = new Worker(origin, listeners)
  origin.begin(worker, listeners)
  if (signals) stopOnSignals(worker)
  return worker
}
