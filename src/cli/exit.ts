/** How a command ends: exit codes (sysexits(3)), the error with a remedy, and the codes of other errors. */
import { getSystemErrorMap } from 'node:util'
import { printable } from './printable.ts'

export const EXIT = {
  ok: 0,
  /** What the command ran, or asked for, has failed. */
  failed: 1,
  /** The command line is wrong. */
  usage: 64,
  /** The data is wrong. */
  data: 65,
  /** An input file does not exist or can't be read. */
  noInput: 66,
  /** Nobody answers at the socket. */
  unavailable: 69,
  /** A fault of passfd. */
  internal: 70,
  /** A file or listener can't be created. */
  cantCreate: 73,
  /** Reading or writing has failed. */
  io: 74,
  /** Another process is in the way, or a limit is reached: try again later. */
  temporary: 75,
  noPermission: 77,
  /** The configuration is wrong. */
  config: 78
} as const

export type ExitCode = (typeof EXIT)[keyof typeof EXIT]

/** An error that a command reports as `passfd: <what happened>. <remedy>.` Both are given without their full stop. */
export class CommandError extends Error {
  readonly exitCode: ExitCode
  readonly remedy: string | undefined
  /** For `--json`. */
  readonly code: string | undefined

  constructor(exitCode: ExitCode, what: string, remedy?: string, options: { code?: string; cause?: unknown } = {}) {
    super(what, 'cause' in options ? { cause: options.cause } : {})
    this.name = 'CommandError'
    this.exitCode = exitCode
    this.remedy = remedy
    this.code = options.code
  }
}

/** Ends a command with an exit code. Everything was written already. */
export class ExitWith extends Error {
  readonly exitCode: number
  /** The signal by which this process is to end, because the command that it ran has ended by it. */
  readonly signal: NodeJS.Signals | undefined

  constructor(exitCode: number, signal?: NodeJS.Signals) {
    super(`exit code ${exitCode}`)
    this.exitCode = exitCode
    this.signal = signal
  }
}

/** Codes of the system, and passfd's without ERR_PASSFD_. All others of passfd's are `failed`. */
const CODES: Record<string, ExitCode> = {
  INVALID_ARGUMENT: EXIT.usage,
  ADDRESS_TOO_LONG: EXIT.usage,
  TAKEOVER_BUSY: EXIT.temporary,
  TAKEOVER_MOVED: EXIT.temporary,
  TAKEOVER_TOO_LATE: EXIT.temporary,
  TAKEOVER_OVER: EXIT.temporary,
  TAKEOVER_TIMEOUT: EXIT.temporary,
  SUPERVISOR_STATE: EXIT.temporary,
  ADDRESS_LOCKED: EXIT.temporary,
  BUSY: EXIT.temporary,
  ADDRESS_IN_USE_BY_FILE: EXIT.cantCreate,
  CLOSED: EXIT.unavailable,
  DISCONNECTED: EXIT.unavailable,
  CONNECT_TIMEOUT: EXIT.unavailable,
  HANDSHAKE_TIMEOUT: EXIT.unavailable,
  TIMEOUT: EXIT.unavailable,
  UNAUTHORIZED: EXIT.noPermission,
  AUTHORIZE_FAILED: EXIT.noPermission,
  REFUSED: EXIT.noPermission,
  BAD_HELLO: EXIT.data,
  BAD_FRAME: EXIT.data,
  UNDECODABLE: EXIT.data,
  MESSAGE_TOO_LARGE: EXIT.data,
  STORE_EXISTS: EXIT.cantCreate,
  STORE_LEASED: EXIT.temporary,
  STORE_LEASE_OVER: EXIT.temporary,
  STORE_FULL: EXIT.temporary,
  STORE_DENIED: EXIT.noPermission,
  STORE_POLL: EXIT.usage,
  STORE_MOVED: EXIT.unavailable,
  STORE_UNREACHABLE: EXIT.unavailable,
  STORE_REQUEST: EXIT.data,
  TOO_MANY_DESCRIPTORS: EXIT.data,
  ENOENT: EXIT.noInput,
  ENOTDIR: EXIT.noInput,
  EISDIR: EXIT.noInput,
  ECONNREFUSED: EXIT.unavailable,
  ECONNRESET: EXIT.unavailable,
  EADDRINUSE: EXIT.cantCreate,
  EADDRNOTAVAIL: EXIT.cantCreate,
  ENOTFOUND: EXIT.cantCreate,
  EAI_AGAIN: EXIT.temporary,
  EEXIST: EXIT.cantCreate,
  EROFS: EXIT.cantCreate,
  EACCES: EXIT.noPermission,
  EPERM: EXIT.noPermission,
  EIO: EXIT.io,
  EPIPE: EXIT.io,
  ENOSPC: EXIT.io,
  EAGAIN: EXIT.temporary,
  EMFILE: EXIT.temporary,
  ENFILE: EXIT.temporary,
  ENOMEM: EXIT.temporary
}

const REMEDIES: Record<string, string> = {
  EADDRINUSE: 'Stop the program that has this address, or choose another one',
  EACCES: 'Run this as a user who may do this, or choose another path or port',
  EPERM: 'Run this as a user who may do this',
  EMFILE: 'Raise the limit of open files (ulimit -n)',
  ENOENT: 'Check the path',
  EADDRNOTAVAIL: 'Use an address of this host',
  ENOTFOUND: 'Check the name of the host',
  EAI_AGAIN: 'Check the name of the host, and the name server'
}

export interface Failed {
  exitCode: ExitCode
  /** One line: what happened, and the remedy. */
  message: string
  code: string | undefined
}

/** Describes any error that a command has thrown. */
export function failureOf(error: unknown): Failed {
  if (error instanceof CommandError) {
    const remedy = error.remedy === undefined ? '' : ` ${error.remedy}.`
    return { exitCode: error.exitCode, message: oneLine(`${error.message}.${remedy}`), code: error.code }
  }
  const { code, message, errno, syscall, ...rest } = (error ?? {}) as NodeJS.ErrnoException & {
    port?: number
    address?: string
    /** Of a look-up. */
    hostname?: string
    remote?: { code?: string }
  }
  if (typeof code === 'string' && code.startsWith('ERR_PASSFD_')) {
    // A peer says why it has ended the channel, or refused it
    const why = code === 'ERR_PASSFD_PEER' ? (rest.remote?.code ?? code) : code
    return { exitCode: CODES[why.replace('ERR_PASSFD_', '')] ?? EXIT.failed, message: oneLine(message), code }
  }
  if (typeof code === 'string' && typeof syscall === 'string') {
    const meaning = getSystemErrorMap().get(errno ?? 0)?.[1] ?? code
    const host = rest.address?.includes(':') ? `[${rest.address}]` : (rest.address ?? '')
    const of = rest.path ?? rest.hostname ?? (rest.port === undefined ? rest.address : `${host}:${rest.port}`)
    const remedy = REMEDIES[code] === undefined ? '' : ` ${REMEDIES[code]}.`
    const what = `${of === undefined ? '' : `${of}: `}${meaning} (${code}, ${syscall}).${remedy}`
    return { exitCode: CODES[code] ?? EXIT.failed, message: oneLine(what), code }
  }
  const what = error instanceof Error ? `${error.name}: ${error.message}` : String(error)
  return {
    exitCode: EXIT.internal,
    message: oneLine(`${what}. This is a fault of passfd. Set PASSFD_DEBUG=1 to see where it is.`),
    code: typeof code === 'string' ? code : undefined
  }
}

/** Texts of a peer, of paths and of the command line may be in it. */
function oneLine(text: string): string {
  return printable(
    text
      .replace(/\s*\n\s*/g, ' ')
      .replace(/\.\.( |$)/g, '.$1')
      .trim()
  )
}
