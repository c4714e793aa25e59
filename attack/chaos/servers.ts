/** The servers that the attack knows, each a program that it starts, and what it may ask of them. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Running, start } from '../../test/helpers/process.ts'

export interface Kind {
  /** As `--only` names it. */
  readonly name: string
  /** Of prefork: another program of the workers, seen from servers/. */
  readonly worker?: string
  /** The file of its program. */
  readonly program: 'prefork' | 'takeover' | 'cluster' | 'pm2'
  readonly balance?: string | { dispatch: string }
}

const prefork = (name: string, balance: Kind['balance'] & {}): Kind => ({ name, program: 'prefork', balance })

export const KINDS: readonly Kind[] = [
  prefork('per-worker', 'per-worker'),
  prefork('shared', 'shared'),
  prefork('round-robin', { dispatch: 'round-robin' }),
  prefork('least-connections', { dispatch: 'least-connections' }),
  prefork('address', { dispatch: 'address' }),
  prefork('route', 'route'),
  { name: 'takeover', program: 'takeover' },
  { name: 'cluster', program: 'cluster', balance: 'rr' },
  { name: 'cluster-none', program: 'cluster', balance: 'none' },
  { name: 'pm2', program: 'pm2' }
]

/** Whether passfd promises something. */
export const isOurs = ({ program }: Kind): boolean => program === 'prefork' || program === 'takeover'

export interface Place {
  readonly folder: string
  readonly listeners: Record<'http' | 'http6' | 'tls' | 'http2' | 'raw', { host: string; port: number }>
  readonly unix: { path: string }
  readonly udp: { address: string; port: number }
  readonly udp6: { address: string; port: number }
}

const WORKERS = 2
/** Clients, and what workers of `soak` talk to. */
const OTHERS = /client\.mjs|peer\.mjs/
/** How long whatever is asked may take, in ms: longer than any limit of the servers, on a machine that has much else to do. */
const PATIENCE = 240_000

/** An address of this process alone: its clients' ports are others. Below the ports that the kernel chooses (ip(7)), because servers come back to theirs. */
export async function newPlace(): Promise<Place> {
  const { pid } = process
  const host = `127.${64 + ((pid >> 16) & 63)}.${(pid >> 8) & 255}.${pid & 255}`
  const folder = mkdtempSync(join(tmpdir(), 'passfd-chaos-'))
  const at = (port: number): { host: string; port: number } => ({ host, port })
  const six = await freePort6()
  return {
    folder,
    listeners: { http: at(8080), http6: { host: '::1', port: six }, tls: at(8443), http2: at(8081), raw: at(8082) },
    unix: { path: join(folder, 'socket') },
    udp: { address: host, port: 8053 },
    udp6: { address: '::1', port: six }
  }
}

async function freePort6(): Promise<number> {
  for (let port = 10_000 + (process.pid % 20_000); ; port++) {
    const server = createServer()
    const isFree = await new Promise(resolve => {
      server.once('error', () => resolve(false)).listen({ host: '::1', port }, () => resolve(true))
    })
    if (isFree) return new Promise(resolve => void server.close(() => resolve(port)))
  }
}

/** One of its processes: the supervisor, the primary, or the process that serves. */
class Program {
  readonly running: Running
  readonly #answers = new Map<number, { resolve(value: any): void; reject(error: Error): void }>()
  #count = 0
  #ready: () => void = () => {}
  readonly ready: Promise<void>
  /** Who has taken over from it, as it knows itself. */
  successor: number | undefined

  constructor(kind: Kind, place: Place, options: object) {
    const path = fileURLToPath(new URL(`servers/${kind.program}.mjs`, import.meta.url))
    const setup = JSON.stringify({ ...place, balance: kind.balance, worker: kind.worker, workers: WORKERS, options })
    this.running = start(process.execPath, [path, setup], { cwd: place.folder })
    this.ready = new Promise((resolve, reject) => {
      this.#ready = resolve
      this.running.exit.then(({ code, signal, stderr }) =>
        reject(new Error(`${kind.name} ends with ${signal ?? code}: ${stderr.slice(0, 2000)}`))
      )
    })
    this.ready.catch(() => {})
    this.#listen().catch(error => {
      for (const { reject } of this.#answers.values()) reject(error)
    })
  }

  get pid(): number {
    return this.running.child.pid!
  }

  async #listen(): Promise<void> {
    for (;;) {
      const line = await this.running.line()
      if (!line.startsWith('{')) continue // pm2 writes there, too
      const { id, value, error, event, pid } = JSON.parse(line)
      if (event === 'ready') this.#ready()
      if (event === 'superseded') this.successor = pid
      if (error !== undefined) this.#answers.get(id)?.reject(new Error(error))
      else this.#answers.get(id)?.resolve(value)
      this.#answers.delete(id)
    }
  }

  async ask<Value = null>(command: string, ...values: unknown[]): Promise<Value> {
    const id = ++this.#count
    const answer = new Promise<Value>((resolve, reject) => {
      this.#answers.set(id, { resolve, reject })
    })
    this.running.child.stdin?.write(`${JSON.stringify([id, command, ...values])}\n`)
    return within(answer, `${command} ${values.join(' ')}`)
  }
}

/** Rejects if that takes too long: a hang is a fault, too. */
export async function within<Value>(promise: Promise<Value>, what: string): Promise<Value> {
  let timer: NodeJS.Timeout
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} takes more than ${PATIENCE / 1000} s`)), PATIENCE)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

export class Server {
  readonly kind: Kind
  readonly place: Place
  readonly #options: object
  #program: Program
  /** Predecessors that drain. */
  readonly #before: Promise<unknown>[] = []

  private constructor(kind: Kind, place: Place, options: object) {
    this.kind = kind
    this.place = place
    this.#options = options
    this.#program = new Program(kind, place, options)
  }

  /** `options`: other ones of a Supervisor. It removes the folder of the place at its end. */
  static async start(kind: Kind, options: object = {}, place?: Place): Promise<Server> {
    const server = new Server(kind, place ?? (await newPlace()), options)
    try {
      await within(server.#program.ready, 'the start')
    } catch (error) {
      await server.close()
      throw error
    }
    return server
  }

  /** Of the process that leads, or serves. */
  get pid(): number {
    return this.#program.pid
  }

  get exit(): Running['exit'] {
    return this.#program.running.exit
  }

  /** The process that leads, or serves. */
  get program(): { readonly pid: number; readonly successor: number | undefined } {
    return this.#program
  }

  get workerCount(): number {
    return this.kind.program === 'takeover' ? 1 : WORKERS
  }

  ask<Value = null>(command: string, ...values: unknown[]): Promise<Value> {
    return this.#program.ask<Value>(command, ...values)
  }

  /** Those that serve. */
  workers(): Promise<number[]> {
    return this.ask('workers')
  }

  /** New processes in the place of those that serve. */
  async reload(): Promise<void> {
    if (this.kind.program === 'takeover') await this.replace()
    else await this.ask('reload')
  }

  /** The program is started again, and takes over. Rejects if it doesn't get ready. `meanwhile`: what is done to it. */
  async replace(meanwhile: (candidate: number) => Promise<void> = async () => {}): Promise<void> {
    const next = new Program(this.kind, this.place, this.#options)
    const before = this.#program
    const done = meanwhile(next.pid)
    try {
      await within(next.ready, 'the takeover')
    } catch (error) {
      next.running.child.kill('SIGKILL')
      await next.running.exit
      await done
      throw error
    }
    this.#program = next
    await done
    const ended = before.running.exit
    this.#before.push(ended)
    await within(ended, 'the end of the process that was replaced')
  }

  /** Starts one again in the place of one that has ended. */
  async again(): Promise<void> {
    await within(this.exit, 'the end')
    await within(this.#othersGone(), 'the end of its workers')
    this.#program = new Program(this.kind, this.place, this.#options)
    await within(this.#program.ready, 'the next start')
  }

  async #othersGone(): Promise<void> {
    while (this.processes().length > 0) await new Promise(resolve => setTimeout(resolve, 10))
  }

  /** Resolves when it has ended, or is about to. */
  async stop(): Promise<void> {
    const { exit } = this
    await Promise.race([this.ask('stop').catch(() => exit), exit])
  }

  /** What workers read: place.mjs. */
  write(name: 'boot' | 'block', text: string): void {
    writeFileSync(join(this.place.folder, name), text)
  }

  /** What a worker had received, and not answered. One more may be on its way to its counter. */
  datagramsOf(pid: number): number {
    try {
      const [received = 0, answered = 0] = new Uint32Array(
        new Uint8Array(readFileSync(join(this.place.folder, `datagrams-${pid}`))).buffer
      )
      return received - answered + 1
    } catch {
      return 0
    }
  }

  /** Its processes that have not ended. */
  processes(): number[] {
    return readdirSync('/proc')
      .map(Number)
      .filter(pid => {
        try {
          const command = pid > 0 && pid !== process.pid ? readFileSync(`/proc/${pid}/cmdline`, 'latin1') : ''
          return command.includes(this.place.folder) && !OTHERS.test(command)
        } catch {
          return false
        }
      })
  }

  /** Stops it; resolves to what is left of it: nothing, if all is well. `writes`: what its processes may have written. */
  async end(writes?: string): Promise<string[]> {
    const left: string[] = []
    const { stderr, code, signal } = await within(
      this.stop().then(() => {
        this.#program.running.child.stdin?.end()
        return this.exit
      }),
      'the stop'
    )
    if (code !== 0) left.push(`it ends with ${signal ?? code}`)
    if (stderr !== '' && (writes === undefined || !stderr.includes(writes)))
      left.push(`it writes ${stderr.slice(0, 1000)}`)
    await within(this.#othersGone(), 'the end of its workers')
    return left
  }

  async close(): Promise<void> {
    for (const pid of this.processes())
      try {
        process.kill(pid, 'SIGKILL')
      } catch {
        // it has ended
      }
    await Promise.all([this.exit, ...this.#before])
    rmSync(this.place.folder, { recursive: true, force: true })
  }
}
