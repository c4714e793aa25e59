/**
 * A real service manager of systemd, as a user's manager in a mount namespace of its own: it needs root, and nothing else may be PID 1's. In a full run the
 * tests run with a newer systemd, too (scripts/newer-systemd.mjs).
 */
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  chownSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync
} from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { ExecutionContext } from 'ava'
import { NotifySocket } from '../../src/systemd/notify-socket.ts'
import { isFull, isInCi } from './full.ts'
import { missing } from './programs.ts'
import { testIf, until } from './test.ts'

const run = promisify(execFile)
const MANAGER = '/usr/bin/systemd'
const fixture = fileURLToPath(new URL('../fixtures/systemd-service.mjs', import.meta.url))

/** Why there is no manager here; undefined: there is one. */
export const withoutManager: string | undefined =
  missing(MANAGER, 'systemd') ?? (process.getuid?.() === 0 ? undefined : 'it takes root to make a mount namespace')

/** The folder `usr` of a newer systemd. */
const NEWER = process.env.PASSFD_TEST_SYSTEMD

const withoutNewer =
  withoutManager ??
  (NEWER === undefined ? 'no PASSFD_TEST_SYSTEMD: node scripts/newer-systemd.mjs prints it' : undefined)

type Body = (t: ExecutionContext, manager: Manager) => Promise<void>

interface Needs {
  /** An ordinary user, whose manager it is. Default: root. */
  readonly uid?: number
  /** Why it can't run: of what else it needs. */
  readonly without?: string | undefined
}

/** A test with a manager of this machine's systemd. A full run tries it with the newer one, too. */
export function managed(title: string, body: Body, needs: Needs = {}): void {
  declare(withoutManager, title, body, needs, undefined)
  if (isFull) declare(withoutNewer, `newer systemd: ${title}`, body, needs, NEWER)
}

/** A test that only the newer systemd can pass: of a full run, and skipped in a person's. */
export function managedByNewer(title: string, body: Body, needs: Needs = {}): void {
  if (isFull || !isInCi) declare(withoutNewer, `newer systemd: ${title}`, body, needs, NEWER)
}

function declare(
  reason: string | undefined,
  title: string,
  body: Body,
  { uid = 0, without }: Needs,
  usr: string | undefined
): void {
  testIf(reason ?? without, title, async t => {
    await using manager = await Manager.start(uid, usr)
    await body(t, manager)
  })
}

/** Starts a service with the fixture, and does not wait for it to be ready. */
export async function started(manager: Manager, name: string): Promise<Service> {
  await manager.systemctl('start', '--no-block', name)
  return manager.service(name)
}

export async function stateOf(manager: Manager, name: string): Promise<string> {
  return `${await manager.show(name, 'ActiveState')} ${await manager.show(name, 'Result')}`
}

export async function untilOther(manager: Manager, name: string, property: string, before: string): Promise<void> {
  for (let tries = 0; tries < 600; tries++) if ((await manager.show(name, property)) !== before) return
  throw new Error(`${property} of ${name} stays ${before}`)
}

export async function untilShown(manager: Manager, name: string, property: string, value: string): Promise<void> {
  let shown = ''
  for (let tries = 0; tries < 600 && shown !== value; tries++) shown = await manager.show(name, property)
  if (shown !== value) throw new Error(`${property} of ${name} is ${shown}, not ${value}`)
}

/** The bus and the notify socket lie in a folder of ours; the manager itself wants to see that systemd has booted the machine. */
const START = `
  { [ -z "$NEWER" ] || mount -t overlay -o "lowerdir=$NEWER:/usr" overlay /usr; } &&
  mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system &&
  for folder in $CGROUPS; do mkdir -p $folder && chown -R $MANAGER_UID $folder && echo $$ > $folder/cgroup.procs || exit 1; done &&
  exec setpriv --pdeathsig=TERM --reuid=$MANAGER_UID --regid=$MANAGER_UID --clear-groups ${MANAGER} --user --unit=basic.target --log-target=console --log-level=info --show-status=false`

/**
 * The manager's own control groups, of its own hierarchy and those whose limits it sets by default: in a shared one, managers that run at the same time would
 * kill each other's services of a name. An ordinary user's manager may make groups in no others.
 */
function cgroupFolders(name: string): string[] {
  const mounts = readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map(line => line.split(' '))
  return mounts.flatMap(([, path = '', type, options = '']) =>
    type === 'cgroup2' || (type === 'cgroup' && /\b(name=systemd|pids|memory)\b/.test(options))
      ? [join(path, name)]
      : []
  )
}

export class Manager implements AsyncDisposable {
  readonly folder: string
  readonly #env: Record<string, string>
  readonly #uid: number
  readonly #cgroups: readonly string[]
  readonly #server: Server
  readonly #services = new Map<string, (service: Service) => void>()
  readonly #waiting: Service[] = []
  /** What the manager has logged. */
  log = ''
  #ended!: Promise<unknown>
  #isKilled = false
  /** Of the manager's process. */
  pid = 0

  /** `uid`: an ordinary user, whose control groups are made first. `usr`: a folder over /usr, with another systemd. */
  static async start(uid = 0, usr = ''): Promise<Manager> {
    const manager = new Manager(uid)
    await manager.#start(usr)
    return manager
  }

  private constructor(uid: number) {
    this.#uid = uid
    this.folder = mkdtempSync(join(tmpdir(), 'passfd-systemd-'))
    for (const name of ['run', 'config/systemd/user'])
      mkdirSync(join(this.folder, name), { recursive: true, mode: 0o700 })
    const { PATH = '', HOME = '/root' } = process.env
    this.#env = { PATH, HOME, XDG_RUNTIME_DIR: join(this.folder, 'run'), XDG_CONFIG_HOME: join(this.folder, 'config') }
    for (const name of ['', 'run', 'config', 'config/systemd', 'config/systemd/user'])
      chownSync(join(this.folder, name), uid, uid)
    this.#cgroups = cgroupFolders(basename(this.folder))
    this.#server = createServer(socket => void this.#arrived(socket))
  }

  async #start(usr: string): Promise<void> {
    await using notifications = await NotifySocket.open()
    const env = {
      ...this.#env,
      NOTIFY_SOCKET: notifications.address,
      CGROUPS: this.#cgroups.join(' '),
      MANAGER_UID: `${this.#uid}`,
      NEWER: usr
    }
    const child = spawn('unshare', ['-m', 'sh', '-c', START], { env, stdio: ['ignore', 'ignore', 'pipe'] })
    this.pid = child.pid!
    child.stderr.setEncoding('utf8').on('data', text => {
      this.log += text
    })
    this.#ended = once(child, 'close')
    const ready = new Promise<void>(resolve => {
      notifications.watch(child.pid!, fields => {
        if (fields.get('READY') === '1') resolve()
      })
    })
    const failed = this.#ended.then(() => {
      throw new Error(`The manager has ended: ${this.log}`)
    })
    await Promise.race([ready, failed])
    failed.catch(() => {})
    this.#server.listen(join(this.folder, 'control'))
    await once(this.#server, 'listening')
    chmodSync(join(this.folder, 'control'), 0o666)
  }

  /** Writes a unit. A service without an ExecStart runs the fixture, which `service()` returns when it has started. */
  unit(name: string, sections: Record<string, Record<string, string | readonly string[]>>): void {
    const lines: string[] = []
    for (const [section, settings] of Object.entries(sections)) {
      lines.push(`[${section}]`)
      for (const [key, values] of Object.entries(settings))
        for (const value of [values].flat()) lines.push(`${key}=${value}`)
    }
    if (name.endsWith('.service') && sections.Service?.ExecStart === undefined) {
      lines.push('[Service]', `ExecStart=${process.execPath} ${fixture} %n ${join(this.folder, 'control')}`)
    }
    writeFileSync(join(this.folder, 'config/systemd/user', name), `${lines.join('\n')}\n`)
  }

  async systemctl(...args: string[]): Promise<string> {
    const { stdout } = await run('systemctl', ['--user', '--no-pager', ...args], {
      env: this.#env,
      uid: this.#uid,
      gid: this.#uid,
      timeout: 60_000
    })
    return stdout.trim()
  }

  async show(unit: string, property: string): Promise<string> {
    return this.systemctl('show', unit, `--property=${property}`, '--value')
  }

  async version(): Promise<string> {
    return this.systemctl('show', '--property=Version', '--value')
  }

  /** Runs a program of the manager's systemd, as its user: resolves to what it prints. */
  async inside(command: string, ...args: string[]): Promise<string> {
    const where = [`--target=${this.pid}`, '--mount', `--setuid=${this.#uid}`, `--setgid=${this.#uid}`]
    const { stdout } = await run('nsenter', [...where, command, ...args], { env: this.#env, timeout: 60_000 })
    return stdout.trim()
  }

  /** What the bus has of an interface `org.freedesktop.systemd1.…`, in the XML of D-Bus's introspection. */
  async described(name: string): Promise<string> {
    return this.inside(MANAGER, `--bus-introspect=org.freedesktop.systemd1.${name}`)
  }

  /** Ends the manager by KILL: its services go on. */
  async kill(): Promise<void> {
    process.kill(this.pid, 'SIGKILL')
    await this.#ended
    this.#isKilled = true
  }

  /** The next start of the service with the fixture, which waits for `Service.run()`. */
  async service(name: string): Promise<Service> {
    const at = this.#waiting.findIndex(service => service.name === name)
    if (at >= 0) return this.#waiting.splice(at, 1)[0]!
    return new Promise(resolve => this.#services.set(name, resolve))
  }

  async #arrived(socket: Socket): Promise<void> {
    socket.on('error', () => {}) // it was killed
    const service = await Service.on(socket)
    const wanted = this.#services.get(service.name)
    this.#services.delete(service.name)
    if (wanted === undefined) this.#waiting.push(service)
    else wanted(service)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#isKilled) process.kill(this.pid, 'SIGTERM')
    await this.#ended
    this.#server.close()
    await once(this.#server, 'close')
    for (const folder of this.#cgroups) await until(() => isRemoved(folder), `${folder} has no processes`)
    rmSync(this.folder, { recursive: true, force: true })
  }
}

/** Removes a control group, unless there are processes in it: those of a manager that was killed may be ending. */
function isRemoved(folder: string): boolean {
  try {
    for (const entry of readdirSync(folder, { withFileTypes: true }))
      if (entry.isDirectory() && !isRemoved(join(folder, entry.name))) return false
    rmdirSync(folder)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EBUSY') throw error
    return false
  }
}

/** One process of a service. */
export class Service {
  readonly name: string
  readonly pid: number
  /** Resolves when the process has ended. */
  readonly ended: Promise<unknown>
  readonly #socket: Socket
  readonly #answers: { resolve(value: any): void; reject(error: Error): void }[] = []

  static async on(socket: Socket): Promise<Service> {
    // A service that is killed may leave what it has not read: that is a reset, which the interface reports, too
    const lines = createInterface(socket).on('error', () => {})
    const [hello] = await once(lines, 'line')
    const service = new Service(socket, JSON.parse(hello))
    lines.on('line', line => {
      const { value, error } = JSON.parse(line)
      const answer = service.#answers.shift()!
      if (error === undefined) answer.resolve(value)
      else answer.reject(Object.assign(new Error(error.message), error))
    })
    return service
  }

  private constructor(socket: Socket, { name, pid }: { name: string; pid: number }) {
    this.name = name
    this.pid = pid
    this.#socket = socket
    this.ended = new Promise(resolve => socket.once('close', resolve)).then(() => {
      for (const { reject } of this.#answers.splice(0)) reject(new Error('the service has ended'))
    })
  }

  /** Runs the body of an async function in the service, with `systemd`, `passfd` and `kept` (an object of its own); resolves to what it returns. */
  run(source: string): Promise<any> {
    this.#socket.write(`${JSON.stringify(source)}\n`)
    return new Promise((resolve, reject) => this.#answers.push({ resolve, reject }))
  }
}
