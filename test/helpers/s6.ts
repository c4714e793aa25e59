/** The daemon s6-fdholderd with its programs: https://skarnet.org/software/s6/s6-fdholderd.html, and Debian's package s6. */
import { fstatSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { assertOpen, type Descriptor } from '../../src/descriptor/descriptor.ts'
import { outputOf, type Running, start } from './process.ts'
import { childrenOf } from './processes.ts'
import { missing, startFor, stop } from './programs.ts'
import { publicDirectory } from './public.ts'

/** Where Debian has them. */
const PROGRAMS = '/usr/bin'

/** Why it can't run here; undefined: it can. */
export const withoutFdHolder: string | undefined = missing(join(PROGRAMS, 's6-fdholder-daemon'), 's6')

/** What a user may do with which identifiers: extended regular expressions. */
export interface FdHolderRights {
  store?: string
  retrieve?: string
  list?: boolean
  /** Copying the whole state out of it and into it. */
  dump?: boolean
}

/** By a user's number. A user without any is not let in. */
export type FdHolderRules = Record<number, FdHolderRights>

const ALL: FdHolderRights = { store: '.', retrieve: '.', list: true, dump: true }
/** Root may do everything, and nobody else anything. */
export const ROOT_ONLY: FdHolderRules = { 0: ALL }

interface RunOptions {
  stdin?: Descriptor
  uid?: number
}

/** A program's end, with the lines of its output. */
export interface Ended {
  readonly code: number | null
  readonly lines: readonly string[]
  readonly stderr: string
}

export async function runS6(name: string, args: string[], { stdin, uid = 0 }: RunOptions = {}): Promise<Ended> {
  const input = stdin === undefined ? 'ignore' : assertOpen(stdin)
  const running = start(join(PROGRAMS, name), args, { stdio: [input, 'pipe', 'pipe'], uid, gid: uid })
  const lines = await outputOf(running)
  const { code, stderr } = await running.exit
  return { code, lines, stderr }
}

export class FdHolder implements AsyncDisposable {
  readonly path: string
  readonly #running: Running

  /** Every user can open its socket: the rules alone decide. */
  static async start(rules: FdHolderRules = ROOT_ONLY, ...options: string[]): Promise<FdHolder> {
    const folder = publicDirectory()
    const path = join(folder, 'socket')
    const holder = new FdHolder(
      path,
      startFor(120, join(PROGRAMS, 's6-fdholder-daemon'), '-1', '-i', rulesIn(folder, rules), ...options, path)
    )
    await holder.#running.line() // empty: it is ready
    return holder
  }

  private constructor(path: string, running: Running) {
    this.path = path
    this.#running = running
  }

  /** Rejects with what the program prints. The descriptor stays the caller's. */
  async store(id: string, stdin: Descriptor, { uid = 0, ttl = 0 } = {}): Promise<void> {
    await this.#do('store', ['-T', `${ttl}`, this.path, id], { stdin, uid })
  }

  /** Which open file a program finds that retrieves it: device and inode. `remove`: the daemon closes its own. */
  async retrieve(id: string, { uid = 0, remove = false } = {}): Promise<string> {
    const look = ['stat', '-L', '-c', '%d:%i', '/dev/stdin']
    const [file] = await this.#do('retrieve', [...(remove ? ['-D'] : []), this.path, id, ...look], { uid })
    return file!
  }

  async remove(id: string): Promise<void> {
    await this.#do('delete', [this.path, id])
  }

  async list(uid = 0): Promise<readonly string[]> {
    return this.#do('list', [this.path], { uid })
  }

  /** The variables with which `getdump` describes what it gets. */
  async dumped(): Promise<readonly string[]> {
    const lines = await this.#do('getdump', [this.path, 'env'])
    return lines.filter(line => line.startsWith('S6_FD'))
  }

  async transferTo(other: FdHolder): Promise<void> {
    await this.#do('transferdump', [this.path, other.path])
  }

  /** KILL. */
  async kill(): Promise<void> {
    for (const pid of childrenOf(this.#running.child.pid!)) process.kill(pid, 'SIGKILL')
    await this.#running.exit
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await stop(this.#running)
  }

  async #do(name: string, args: string[], options?: RunOptions): Promise<readonly string[]> {
    const { code, lines, stderr } = await runS6(`s6-fdholder-${name}`, args, options)
    if (code !== 0) throw new Error(stderr)
    return lines
  }
}

/** Device and inode of its open file, as `retrieve()` has them. */
export function fileOf(descriptor: Descriptor): string {
  const { dev, ino } = fstatSync(assertOpen(descriptor), { bigint: true })
  return `${dev}:${ino}`
}

/** Makes the folder of rules: https://skarnet.org/software/s6/s6-fdholderd.html, "Configuration". */
function rulesIn(folder: string, rules: FdHolderRules): string {
  const path = join(folder, 'rules')
  for (const kind of ['uid', 'gid']) mkdirSync(join(path, kind), { recursive: true })
  for (const [user, { store, retrieve, list, dump }] of Object.entries(rules)) {
    const env = join(path, 'uid', user, 'env')
    mkdirSync(env, { recursive: true })
    writeFileSync(join(path, 'uid', user, 'allow'), '')
    const texts = {
      STORE_REGEX: store,
      RETRIEVE_REGEX: retrieve,
      LIST: list && '1',
      GETDUMP: dump && '1',
      SETDUMP: dump && '1'
    }
    for (const [name, text] of Object.entries(texts))
      if (text) writeFileSync(join(env, `S6_FDHOLDER_${name}`), `${text}\n`)
  }
  return path
}
