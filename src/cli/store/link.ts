/** The connection of a command to the store. */
import { setTimeout as later } from 'node:timers/promises'
import { type Command, InvalidArgumentError } from 'commander'
import { connectStore, type StoreClient } from '../../store/index.ts'
import { CommandError, EXIT } from '../exit.ts'
import { Expected, type Reader, time } from '../serve/read.ts'
import type { Ui } from '../ui.ts'
import { duration } from '../words.ts'
import { storePath } from './place.ts'

/** The time to the next try while nobody listens, in ms. */
const PAUSE = 100
const TIMEOUT = 30_000

export interface LinkOptions {
  socket?: string
  wait?: boolean
  timeout: number
}

/** Adds the options that all commands of the store have. `owner`: and whose names it is about. */
export function addLinkOptions(command: Command, owner?: string): void {
  if (owner !== undefined) command.option('--owner <user>', owner, userOf)
  command
    .option('--socket <path>', "the store's socket (default: $PASSFD_STORE, else store.socket in the runtime folder)")
    .option('--wait', 'if there is no store yet, wait for it')
    .option('--timeout <time>', 'the longest wait for the store (default: 30s)', reader(time(1)))
}

/** As an argument parser of commander. */
export function reader<T>(read: Reader<T>): (given: string) => T {
  return given => {
    try {
      return read(given)
    } catch (error) {
      if (error instanceof Expected) throw new InvalidArgumentError(`It must be ${error.message}.`)
      throw error
    }
  }
}

/** A number, or a name in /etc/passwd or /etc/group, which the library looks up. */
export function userOf(given: string): number | string {
  return /^\d+$/.test(given) ? Number(given) : given
}

/** As the store checks it. Throws (exit code 64) before anything is opened. */
export function checkEntryName(name: string): void {
  if (/^[\x20-\x7e]{1,255}$/.test(name) && !/[:*]/.test(name)) return
  const remedy = 'A name has 1 to 255 printable ASCII characters without ":" and "*"'
  throw new CommandError(EXIT.usage, `"${name}" is no name of an entry`, remedy, {
    code: 'ERR_PASSFD_INVALID_ARGUMENT'
  })
}

/** A store, asked by a command. */
export class StoreLink implements AsyncDisposable {
  readonly path: string
  readonly client: StoreClient
  readonly #timeout: number
  readonly #ui: Ui

  private constructor(path: string, client: StoreClient, timeout: number, ui: Ui) {
    this.path = path
    this.client = client
    this.#timeout = timeout
    this.#ui = ui
  }

  /** Throws (exit code 69) if no store answers. `parent`: the command `store`, whose own options are the store's and not this command's. */
  static async open(command: Command, ui: Ui): Promise<StoreLink> {
    const { socket, wait = false, timeout = TIMEOUT } = command.opts<LinkOptions>()
    const path = storePath(socket ?? socketBefore(command), ui.streams.env)
    const client = await ui.progress(`waiting for the store at ${path}`, connectTo(path, wait, timeout))
    return new StoreLink(path, client, timeout, ui)
  }

  /** Waits for an answer. Throws (exit code 69) when that takes too long, because the store hangs. */
  async ask<T>(answer: Promise<T>): Promise<T> {
    const limit = new AbortController()
    const late = later(this.#timeout, undefined, { signal: limit.signal }).then(() => {
      throw doesNotAnswer(this.path, this.#timeout)
    })
    late.catch(() => {}) // the answer has come
    try {
      return await this.#ui.progress(`waiting for the store at ${this.path}`, Promise.race([answer, late]))
    } finally {
      limit.abort()
    }
  }

  /** May be called twice. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.client.close()
  }
}

/** `passfd store --socket PATH list`. Throws (exit code 64) for another option of the store itself in this place. */
function socketBefore({ parent }: Command): string | undefined {
  const { socket, ...others } = parent!.opts<{ socket?: string }>()
  const [other] = Object.keys(others)
  if (other === undefined) return socket
  const { long = other } = parent!.options.find(option => option.attributeName() === other) ?? {}
  throw new CommandError(EXIT.usage, `${long} is an option of the store itself`, 'Write options behind the command')
}

async function connectTo(path: string, wait: boolean, timeout: number): Promise<StoreClient> {
  const deadline = performance.now() + timeout
  for (;;) {
    const signal = AbortSignal.timeout(Math.max(1, Math.ceil(deadline - performance.now())))
    try {
      return await connectStore(path, { signal, reconnectTimeout: timeout })
    } catch (cause) {
      if (signal.aborted) throw doesNotAnswer(path, timeout)
      const { code = '' } = cause as NodeJS.ErrnoException
      if (code !== 'ENOENT' && code !== 'ECONNREFUSED') throw cause
      if (wait && performance.now() + PAUSE < deadline) await later(PAUSE)
      else {
        const remedy = `Start it with "passfd store"${wait ? '' : ', or add --wait'}`
        throw new CommandError(EXIT.unavailable, `No store answers at ${path}`, remedy, { code, cause })
      }
    }
  }
}

function doesNotAnswer(path: string, timeout: number): CommandError {
  return new CommandError(
    EXIT.unavailable,
    `The store at ${path} does not answer for ${duration(timeout)}`,
    `Its process hangs or is stopped: "passfd inspect ${path}" shows which one it is`,
    { code: 'ERR_PASSFD_TIMEOUT' }
  )
}
