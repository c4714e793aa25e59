/** The admin channel of a running server, by its NAME or socket. */
import { statSync } from 'node:fs'
import { type Channel, connect, PassfdError } from '../index.ts'
import type { AdminCommand, AdminEvent, AdminStatus } from '../prefork/index.ts'
import { CommandError, EXIT } from './exit.ts'
import { namesInFolder, type Surroundings, socketOf } from './names.ts'
import { nameHere } from './serve/config.ts'

export type AdminChannel = Channel<AdminEvent, AdminCommand>

export interface Admin {
  /** Undefined: it was given by its socket. */
  name: string | undefined
  path: string
  channel: AdminChannel
}

/** What connect(2) says where nobody listens. */
const NOBODY = ['ENOENT', 'ECONNREFUSED', 'ENOTDIR', 'ENOTSOCK']
/** The kernel has connected, and no process answers. */
const HANGS = 'ERR_PASSFD_HANDSHAKE_TIMEOUT'

/**
 * Connects to the server of a NAME or socket; without one to that of the current folder's name. The caller closes the channel. If nobody
 * answers it throws (exit code 69), and names the servers that do.
 */
export async function connectAdmin(
  nameOrPath?: string,
  cwd = process.cwd(),
  surroundings?: Surroundings,
  options: { handshakeTimeout?: number } = {}
): Promise<Admin> {
  const target = nameOrPath ?? (await nameHere(cwd))
  const path = socketOf(target, surroundings)
  const name = target.includes('/') ? undefined : target
  try {
    // A reload may last long
    return { name, path, channel: await connect(path, { requestTimeout: 0, ...options }) }
  } catch (cause) {
    const { code = '' } = cause as NodeJS.ErrnoException
    if (code === 'ERR_PASSFD_UNAUTHORIZED') throw foreign(path, cause)
    if (!NOBODY.includes(code) && code !== HANGS) throw cause
    const who = name === undefined ? `A server at ${path}` : `The server "${name}"`
    if (code === HANGS) {
      const remedy = `Its process hangs or is stopped: "passfd inspect ${name ?? path}" shows which one it is`
      throw new CommandError(EXIT.unavailable, `${who} does not answer`, remedy, { code, cause })
    }
    const names = (await runningNames(surroundings)).filter(other => other !== name)
    const remedy = names.length === 0 ? 'Start one with "passfd serve"' : `These are running: ${names.join(', ')}`
    // A server that is killed leaves its socket file
    const what =
      code === 'ECONNREFUSED' ? `has ended: nobody answers at ${path}` : `is not running: there is no socket ${path}`
    throw new CommandError(EXIT.unavailable, `${who} ${what}`, remedy, { code, cause })
  }
}

/** Not even root commands the process of another user, because that could answer what it likes. */
function foreign(path: string, cause: unknown): CommandError {
  const uid = statSync(path, { throwIfNoEntry: false })?.uid
  const what = `The server at ${path} runs as another user${uid === undefined ? '' : ` (${uid})`}`
  const options = { code: 'ERR_PASSFD_UNAUTHORIZED', cause }
  return new CommandError(EXIT.noPermission, what, 'Run this as that user, for example with "sudo -u"', options)
}

/** The names in the runtime folder for which a server answers. */
export async function runningNames(surroundings?: Surroundings): Promise<string[]> {
  const names = namesInFolder(surroundings)
  const answers = await Promise.all(names.map(name => answersAt(socketOf(name, surroundings))))
  return names.filter((_, index) => answers[index])
}

/** Whether somebody answers at an admin socket. */
export async function answersAt(path: string): Promise<boolean> {
  try {
    const channel = await connect(path, { handshakeTimeout: 2000 })
    await channel.close()
    return true
  } catch (error) {
    // A server of somebody else, or one whose process hangs, is there
    return error instanceof PassfdError && error.code !== 'ERR_PASSFD_DISCONNECTED'
  }
}

/** The answer to `status`. */
export function statusOf({ channel }: Admin): Promise<AdminStatus> {
  return channel.request({ command: 'status' }) as Promise<AdminStatus>
}
