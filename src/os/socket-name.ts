/** Names of Unix sockets: paths of any length and abstract names; creating, reaching and removing them safely. */

import * as fs from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { whenAborted } from '../base/abort-signals.ts'
import { checkPathText, describe, hasLoneSurrogate, printable } from '../base/check.ts'
import { EADDRINUSE, EAGAIN, ECONNREFUSED, EINTR, ENOENT } from '../base/errno.ts'
import { abortError, checked, PassfdError, systemError } from '../base/errors.ts'
import { type KnownOptions, readOptions } from '../base/known-options.ts'
import { checkNoOwner, type FileAccess } from './account.ts'
import { native } from './native.ts'
import { procPath } from './proc.ts'

/** A path, or a name in Linux' abstract namespace, which has no permissions at all: there `authorize` is the only door. */
export type SocketName = { path: string } | { abstract: string }

/** A socket file as it was created: removed on close only if it is still this one. */
export interface SocketFile {
  readonly path: string
  readonly dev: number
  readonly ino: number
}

/** sun_path has 108 bytes (unix(7)); a path needs one for its end, an abstract name one for its beginning. */
const MAX_NAME = 107
const O_PATH = 0x200000
const LOCK_TIMEOUT = 5000
const LOCK_RETRY = 5
const CONNECT_RETRY = [1, 2, 5, 10, 20, 50]

/** Types of sockets, as in `native.socket`. */
export const STREAM = 1
export const DATAGRAM = 2
export const PACKETS = 5

const NAMES: KnownOptions<{ path?: unknown; abstract?: unknown }> = { path: true, abstract: true }

/** Reads an address as users give it. Throws ERR_PASSFD_INVALID_ARGUMENT. */
export function socketName(address: unknown): SocketName {
  const isObject = typeof address === 'object' && address !== null
  const { path, abstract }: { path?: unknown; abstract?: unknown } = isObject
    ? readOptions(address, NAMES, 'address')
    : { path: address }
  const name = path ?? abstract
  if (isObject && name === '')
    throw new PassfdError('INVALID_ARGUMENT', {
      what: `address.${path === undefined ? 'abstract' : 'path'}`,
      expected: 'a name of one character or more',
      actual: describe(name)
    })
  if (typeof name !== 'string' || name === '' || (path !== undefined && abstract !== undefined))
    throw new PassfdError('INVALID_ARGUMENT', {
      what: 'address',
      expected: 'a path, { path }, { abstract } or a Descriptor',
      actual: describe(address)
    })
  if (path !== undefined) {
    checkPathText(name, 'address')
    return { path: name }
  }
  if (hasLoneSurrogate(name))
    throw new PassfdError('INVALID_ARGUMENT', {
      what: 'address',
      expected: 'an abstract name without lone surrogates',
      actual: describe(name)
    })
  return { abstract: name }
}

export function displayName(name: SocketName): string {
  return 'path' in name ? name.path : `@${printable(name.abstract)}`
}

/**
 * A listening socket on `name`. A file is created with `mode` from its first instant; one that is there already is removed only after a
 * connection to it was refused, and under a lock on its directory, so that of two processes starting at once one wins and none is cut off.
 */
export function listenOn(
  name: SocketName,
  access: number | FileAccess,
  backlog: number,
  type = STREAM
): Promise<{ fd: number; file: SocketFile | undefined }> {
  return bindOn(type, name, access, { finish: fd => void checked(native.listen(fd, backlog), 'listen') })
}

/** Closes a bound socket after a failure, and removes its file if it is still the same. */
export async function giveUpBound({ fd, file }: { fd: number; file: SocketFile | undefined }): Promise<void> {
  native.close(fd)
  if (file !== undefined) await removeFile(file).catch(() => {}) // what has failed before says more
}

/** The steps of `bindOn` that depend on the type. Each may throw. */
export interface BindSteps {
  /** Called before the socket has its name. */
  prepare?(fd: number): void
  /** Called when the socket has its name and this process still holds the lock. So no other process takes the socket for dead. */
  finish?(fd: number): void
}

/** Binds a socket of any type (socket(2): STREAM or DATAGRAM), which need not listen. */
export async function bindOn(
  type: number,
  name: SocketName,
  access: number | FileAccess,
  { prepare, finish }: BindSteps
): Promise<{ fd: number; file: SocketFile | undefined }> {
  const given = typeof access === 'number' ? { mode: access, owner: undefined, group: undefined } : access
  if ('abstract' in name) checkNoOwner(given, 'an abstract name, which is no file')
  const { mode, owner, group } = given
  const isGiven = owner !== undefined || group !== undefined
  const first = isGiven ? 0 : mode // before its owner is set, nobody may connect
  const fd = checked(native.socket(type), 'socket')
  try {
    prepare?.(fd)
    if ('abstract' in name) {
      checked(native.bind(fd, abstractBytes(name), -1), 'bind', displayName(name))
      finish?.(fd)
      return { fd, file: undefined }
    }
    const { path } = name
    return await withLock(path, locked =>
      withPathBytes(path, bytes => {
        let result = native.bind(fd, bytes, first)
        if (result === EADDRINUSE && locked) {
          removeIfDead(type, path, bytes)
          result = native.bind(fd, bytes, first)
        }
        checked(result, 'bind', path)
        try {
          const { dev, ino, mode: actual } = fs.lstatSync(path)
          if (isGiven) giveTo(path, { dev, ino }, owner ?? KEEP, group ?? KEEP, mode)
          else if ((actual & 0o777) !== mode) fs.chmodSync(path, mode) // the umask took bits away
          finish?.(fd)
          const absolute = join(fs.realpathSync(dirname(path)), basename(path)) // the directory may be another one by then
          return { fd, file: { path: absolute, dev, ino } }
        } catch (error) {
          removeMade(path)
          throw error
        }
      })
    )
  } catch (error) {
    native.close(fd)
    throw error
  }
}

/** The file was made in this very turn. */
function removeMade(path: string): void {
  try {
    fs.unlinkSync(path)
  } catch {
    // what has failed before says more
  }
}

/** Nothing is at the path any more, or a file is where its folder was. */
const GONE: readonly unknown[] = ['ENOENT', 'ENOTDIR']

/** chown(2) leaves it unchanged. */
const KEEP = 0xffffffff

/** Sets the owner of the socket file that was just created, then its mode. */
function giveTo(
  path: string,
  { dev, ino }: Omit<SocketFile, 'path'>,
  owner: number,
  group: number,
  mode: number
): void {
  const file = fs.openSync(path, O_PATH | fs.constants.O_NOFOLLOW)
  try {
    const now = fs.fstatSync(file)
    if (now.dev !== dev || now.ino !== ino) throw systemError(ENOENT, 'chown', path) // another one stands there by now
    const own = procPath(file, 'The owner of a socket file')
    try {
      fs.chownSync(own, owner, group)
      fs.chmodSync(own, mode)
    } catch (error) {
      const { errno, syscall } = error as NodeJS.ErrnoException
      throw errno === undefined ? error : systemError(errno, syscall!, path) // without: Node's permission model
    }
  } finally {
    fs.closeSync(file)
  }
}

/** Lends the bytes of sun_path for `name`. Throws ERR_PASSFD_ADDRESS_TOO_LONG, or what opening a long path's directory fails with. */
export function withNameBytes<T>(name: SocketName, use: (bytes: Buffer) => T): T {
  return 'path' in name ? withPathBytes(name.path, use) : use(abstractBytes(name))
}

/** The bytes of sun_path for `name` if they are always the same; undefined if its path is too long, and needs a descriptor of its directory. */
export function lastingBytes(name: SocketName): Buffer | undefined {
  if (!('path' in name)) return abstractBytes(name)
  const bytes = Buffer.from(name.path)
  return bytes.length <= MAX_NAME ? bytes : undefined
}

/** Removes the file if it is still the one that was created: never a successor's. Its folder may be gone, too. */
export async function removeFile({ path, dev, ino }: SocketFile): Promise<void> {
  try {
    await withLock(path, () => {
      const now = fs.lstatSync(path)
      if (now.dev === dev && now.ino === ino) fs.unlinkSync(path)
    })
  } catch (error) {
    if (!GONE.includes((error as NodeJS.ErrnoException).code)) throw error
  }
}

/** As `removeFile()`, where no program waits for an error. A process warning reports a file that stays. Never rejects. */
export async function removeOrWarn(file: SocketFile): Promise<void> {
  try {
    await removeFile(file)
  } catch (cause) {
    const { message } = cause as Error
    process.emitWarning(new PassfdError('SOCKET_FILE_LEFT', { path: file.path, detail: message }, { cause }))
  }
}

/**
 * Removes the file if no process listens at it: whoever has bound it, and as often as it has changed hands. If that can't be found out or the file
 * can't be removed, the file stays, and the next process that binds the path replaces it.
 */
export async function removeUnused(path: string): Promise<void> {
  try {
    await withLock(path, locked => {
      if (locked) withPathBytes(path, bytes => removeIfDead(STREAM, path, bytes))
    })
  } catch {
    // most often ENOENT: there is none
  }
}

/**
 * A socket connected to `name`. A full backlog is EAGAIN with no event to wait for, so it is tried again until `timeout` ms are over
 * (0: for ever). `prepare` sees the socket before it is connected.
 */
export async function connectTo(
  name: SocketName,
  timeout: number,
  signal: AbortSignal | undefined,
  prepare: (fd: number) => void,
  type = STREAM
): Promise<number> {
  const deadline = timeout === 0 ? Number.POSITIVE_INFINITY : performance.now() + timeout
  const fd = checked(native.socket(type), 'socket')
  try {
    prepare(fd)
    for (let attempt = 0; ; attempt++) {
      if (signal?.aborted) throw abortError(signal)
      const result = withNameBytes(name, bytes => native.connect(fd, bytes))
      if (result >= 0) return fd
      if (result !== EAGAIN && result !== EINTR) throw systemError(result, 'connect', displayName(name))
      if (performance.now() >= deadline)
        throw new PassfdError(
          'CONNECT_TIMEOUT',
          { timeout },
          { cause: systemError(result, 'connect', displayName(name)) }
        )
      await pause(CONNECT_RETRY[Math.min(attempt, CONNECT_RETRY.length - 1)]!, signal)
    }
  } catch (error) {
    native.close(fd)
    throw error
  }
}

/** Resolves after `delay` ms, or when the signal is aborted. */
function pause(delay: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise(resolve => {
    const done = (): void => {
      clearTimeout(timer)
      forget()
      resolve()
    }
    const timer = setTimeout(done, delay)
    const forget = whenAborted(signal, done)
  })
}

function abstractBytes({ abstract }: { abstract: string }): Buffer {
  const bytes = Buffer.from(`\0${abstract}`)
  if (bytes.length > MAX_NAME + 1)
    throw new PassfdError('ADDRESS_TOO_LONG', {
      address: `@${printable(abstract)}`,
      detail: `an abstract name has at most ${MAX_NAME} bytes`,
      part: 'name'
    })
  return bytes
}

/** A path that is too long for sun_path is reached through its directory's descriptor. */
function withPathBytes<T>(path: string, use: (bytes: Buffer) => T): T {
  const bytes = Buffer.from(path)
  if (bytes.length <= MAX_NAME) return use(bytes)
  const directory = fs.openSync(dirname(path), O_PATH | fs.constants.O_DIRECTORY)
  try {
    const short = Buffer.from(`${procPath(directory, `A path of more than ${MAX_NAME} bytes`)}/${basename(path)}`)
    if (short.length > MAX_NAME)
      throw new PassfdError('ADDRESS_TOO_LONG', {
        address: printable(path),
        detail: `its last component may have at most ${MAX_NAME - short.length + Buffer.byteLength(basename(path))} bytes`,
        part: 'last component'
      })
    return use(short)
  } finally {
    fs.closeSync(directory)
  }
}

/** Runs `work` while holding the lock on the path's directory (flock(2)); without it if the directory can't be read: then nothing is removed. */
async function withLock<T>(path: string, work: (locked: boolean) => T): Promise<T> {
  let directory: number
  try {
    directory = fs.openSync(dirname(path), fs.constants.O_RDONLY | fs.constants.O_DIRECTORY)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EACCES') throw error
    return work(false)
  }
  try {
    const deadline = performance.now() + LOCK_TIMEOUT
    for (;;) {
      const result = native.lock(directory, true)
      if (result >= 0) break
      if (result !== EAGAIN && result !== EINTR) throw systemError(result, 'flock', dirname(path))
      if (performance.now() >= deadline)
        throw new PassfdError('ADDRESS_LOCKED', { address: path, timeout: LOCK_TIMEOUT })
      await delay(LOCK_RETRY)
    }
    return work(true)
  } finally {
    fs.closeSync(directory) // the lock ends with it
  }
}

/**
 * Removes a socket file that no socket is bound to: the kernel refuses connections to it. A full backlog (EAGAIN) or another type (EPROTOTYPE)
 * means that a socket is bound.
 */
function removeIfDead(type: number, path: string, bytes: Buffer): void {
  if (!fs.lstatSync(path).isSocket()) throw new PassfdError('ADDRESS_IN_USE_BY_FILE', { address: path })
  const probe = checked(native.socket(type), 'socket')
  const result = native.connect(probe, bytes)
  native.close(probe)
  if (result === ECONNREFUSED) fs.unlinkSync(path)
}
