/** What a pair of processes stands on: a user, mounts, a clock, and what the kernel counts. See ground.c. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
  writeSync
} from 'node:fs'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { compile, Unable } from '../needs.ts'

/** Of getrlimit(2): Linux has the same numbers on x64 and arm64. */
export const RESOURCES = { data: 2, processes: 6, files: 7, memory: 9 }
export type Resource = keyof typeof RESOURCES

/** Longer than the file systems of a ground, in bytes and in files. */
const FILL = { chunk: 16_384, chunks: 100, files: 500 }
/** glibc asks the kernel for all larger pieces of memory, and keeps none (mallopt(3)): otherwise a limit is seldom met. */
const EAGER = { MALLOC_MMAP_THRESHOLD_: '4096', MALLOC_TRIM_THRESHOLD_: '0', MALLOC_TOP_PAD_: '0' }
/** As high as the hard limit. */
const LIFTED = -1

/** Programs in C, compiled once for an attack. */
export class Tools {
  readonly folder = mkdtempSync(join(tmpdir(), 'passfd-attack-'))
  readonly ground = join(this.folder, 'ground')
  readonly preload = join(this.folder, 'preload.so')

  constructor() {
    const source = (name: string): string => fileURLToPath(new URL(name, import.meta.url))
    execFileSync('chmod', ['755', this.folder])
    compile(['-O1', '-o', this.ground, source('ground.c')])
    compile(['-shared', '-fPIC', '-O1', '-o', this.preload, source('preload.c')])
  }

  close(): void {
    rmSync(this.folder, { recursive: true })
  }
}

/** A process of ground.c, which answers each command by an errno. */
class Obeying {
  readonly #child: ChildProcess
  readonly #answers: ((line: string | undefined) => void)[] = []
  readonly #first: Promise<string | undefined> | undefined

  constructor(command: string, args: string[], tellsFirst: boolean) {
    this.#child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] })
    createInterface(this.#child.stdout!)
      .on('line', line => this.#answers.shift()?.(line))
      .on('close', () => {
        for (const answer of this.#answers.splice(0)) answer(undefined)
      })
    this.#child.stdin!.on('error', () => {})
    this.#first = tellsFirst ? this.#next() : undefined
  }

  get pid(): number {
    return this.#child.pid!
  }

  get first(): Promise<string | undefined> {
    return this.#first ?? Promise.resolve(undefined)
  }

  /** An errno; 0: done. */
  async obey(command: string): Promise<number> {
    const answer = this.#next()
    this.#child.stdin!.write(`${command}\n`)
    const line = await answer
    if (line === undefined) throw new Error(`ground.c has ended before it answered to: ${command}`)
    return Number(line)
  }

  close(): void {
    this.#child.kill('SIGKILL')
  }

  #next(): Promise<string | undefined> {
    return new Promise(resolve => this.#answers.push(resolve))
  }
}

export class Ground {
  /** For the sockets of the pair; a small file system, whose files only the pair sees under this name. */
  readonly folder: string
  readonly hasQuotas: boolean
  readonly #uid: number
  readonly #tools: Tools
  readonly #root: Obeying
  readonly #hoard: Obeying
  readonly #clock: string

  private constructor(tools: Tools, uid: number, folder: string, root: Obeying, hasQuotas: boolean) {
    this.#tools = tools
    this.#uid = uid
    this.folder = folder
    this.#root = root
    this.hasQuotas = hasQuotas
    this.#clock = `${folder}.clock`
    this.setClock(0)
    const user = ['--reuid', `${uid}`, '--regid', `${uid}`, '--clear-groups']
    this.#hoard = new Obeying('setpriv', [...user, tools.ground, 'hoard'], false)
    mkdirSync(this.#inside('tmp'), { mode: 0o1777 })
    execFileSync('chmod', ['1777', this.#inside('tmp')])
  }

  static async make(tools: Tools, uid: number): Promise<Ground> {
    const folder = mkdtempSync(join(tools.folder, 'ground-'))
    const root = new Obeying(tools.ground, ['ground', folder, `${uid}`], true)
    const first = await root.first
    if (first === undefined) throw new Unable('it needs mount namespaces (unshare(2))')
    return new Ground(tools, uid, folder, root, first === '1')
  }

  /** Starts what follows as the user of the ground, within its mounts. */
  get command(): string[] {
    const user = ['--reuid', `${this.#uid}`, '--regid', `${this.#uid}`, '--clear-groups']
    return ['nsenter', `--mount=/proc/${this.#root.pid}/ns/mnt`, 'setpriv', ...user]
  }

  get environment(): NodeJS.ProcessEnv {
    const preload = [process.env.LD_PRELOAD, this.#tools.preload].filter(Boolean).join(':')
    return { ...EAGER, LD_PRELOAD: preload, CLOCK: this.#clock, TMPDIR: join(this.folder, 'tmp') }
  }

  /** Undefined: no limit, but the hard one. Not by root, which may lack CAP_SYS_RESOURCE: any user may limit processes of its own (prlimit(2)). */
  async limit(pid: number, resource: Resource, soft: number = LIFTED): Promise<void> {
    const error = await this.#hoard.obey(`limit ${pid} ${RESOURCES[resource]} ${soft}`)
    if (error !== 0 && error !== constants.errno.ESRCH) throw new Error(`no limit of ${resource}: errno ${error}`)
  }

  /** A file system in the place of what is there, and away again. */
  async mount(target: string, type = 'tmpfs', options = 'size=4k'): Promise<number> {
    return this.#root.obey(`mount ${type} ${target} ${options}`)
  }

  async unmount(target: string): Promise<void> {
    await this.#root.obey(`umount ${target}`)
  }

  async readOnly(yes: boolean): Promise<number> {
    return this.#root.obey(`readonly ${this.folder} ${yes ? 1 : 0}`)
  }

  async flight(count: number): Promise<void> {
    const error = await this.#hoard.obey(`flight ${count}`)
    if (error !== 0) throw new Error(`no descriptors in flight: errno ${error}`)
  }

  async watches(left: number): Promise<void> {
    const error = await this.#hoard.obey(`watches ${left}`)
    if (error !== 0) throw new Error(`the watches can't be used up: errno ${error}`)
  }

  /** Uses up the bytes of the folder, or its files; those of root, or what the user may have. */
  fill(what: 'bytes' | 'files', whose: 'root' | 'user'): void {
    const fill = this.#inside('fill')
    mkdirSync(fill)
    try {
      if (what === 'files')
        for (let number = 0; number < FILL.files; number++) closeSync(openSync(join(fill, `${number}`), 'w'))
      else {
        const fd = openSync(join(fill, 'bytes'), 'w')
        try {
          for (let chunk = 0; chunk < FILL.chunks; chunk++) writeSync(fd, Buffer.alloc(FILL.chunk, 1))
        } finally {
          closeSync(fd)
        }
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error
    }
    if (whose === 'user') execFileSync('chown', ['-R', `${this.#uid}`, fill])
  }

  empty(): void {
    rmSync(this.#inside('fill'), { recursive: true, force: true })
  }

  hideTemporary(hidden: boolean): void {
    renameSync(this.#inside(hidden ? 'tmp' : 'hidden'), this.#inside(hidden ? 'hidden' : 'tmp'))
  }

  /** The time of day, ahead of the machine's by so many ms. */
  setClock(ahead: number): void {
    const bytes = Buffer.alloc(8)
    bytes.writeBigInt64LE(BigInt(Math.round(ahead)) * 1_000_000n)
    writeFileSync(this.#clock, bytes, { flag: readsAs(this.#clock) })
  }

  close(): void {
    this.#hoard.close()
    this.#root.close()
    rmSync(this.#clock)
  }

  #inside(name: string): string {
    return join(`/proc/${this.#root.pid}/root`, this.folder, name)
  }
}

/** In bytes: of a process's address space, and of its data. */
export function sizesOf(pid: number): { memory: number; data: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'latin1')
  const size = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1] ?? 0) * 1024
  return { memory: size('VmSize'), data: size('VmData') }
}

/** The lowest number below which all are open. */
export function firstFree(pid: number): number {
  const open = new Set(readdirSync(`/proc/${pid}/fd`).map(Number))
  let number = 0
  while (open.has(number)) number++
  return number
}

/** It is mapped by others: it must stay the same file. */
function readsAs(path: string): string {
  try {
    closeSync(openSync(path, 'r'))
    return 'r+'
  } catch {
    return 'w'
  }
}
