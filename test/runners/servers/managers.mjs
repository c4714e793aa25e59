/** What runs a server in four processes: passfd serve, pm2's cluster mode, or nothing (one process, which can't be reloaded). */
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { execPath, kill } from 'node:process'
import { fileURLToPath } from 'node:url'
import { isOpen, output, start, until } from './processes.mjs'

export const WORKERS = 4
const CLI = fileURLToPath(new URL('../../../dist/cli/passfd.mjs', import.meta.url))
const PM2 = fileURLToPath(new URL('node_modules/pm2/bin/pm2', import.meta.url))
const START = 120_000
const RELOAD = 180_000
const STOP = 90_000

/** One is made for each run of a server: `{ cwd, env, port, server, folder }`. `folder`: for its own files. */
export const MANAGERS = {
  passfd: class {
    #child
    #exit
    #words = ''
    #run
    #began = performance.now()

    constructor(run) {
      this.#run = { ...run, env: { ...run.env, PASSFD_RUNTIME_DIR: run.folder } }
    }

    async start() {
      const { cwd, env, server, port } = this.#run
      const program = withPort(server.program, port)
      const args = [CLI, 'serve', '-w', `${WORKERS}`, '--name', 'server', ...(server.options ?? []), ...program]
      this.#child = start([execPath, ...args], { cwd, env })
      this.#exit = once(this.#child, 'exit')
      for (const stream of [this.#child.stdout, this.#child.stderr])
        stream.setEncoding('utf8').on('data', text => {
          this.#words += text.replace(/^/gm, `${Math.round(performance.now() - this.#began)} `)
        })
      await until(
        () => / serves /.test(this.#words),
        START,
        () => this.#words,
        this.#child
      )
    }

    get pid() {
      return this.#child.pid
    }

    get words() {
      return this.#words
    }

    reload() {
      return output([execPath, CLI, 'reload', 'server'], this.#run, RELOAD)
    }

    /** Resolves to how it ended. */
    async stop() {
      kill(this.pid, 'SIGTERM')
      const timer = setTimeout(() => kill(this.pid, 'SIGKILL'), STOP)
      const [code, signal] = await this.#exit
      clearTimeout(timer)
      return signal ?? code
    }
  },

  pm2: class {
    #run
    #words = ''

    constructor(run) {
      this.#run = { ...run, env: { ...run.env, PM2_HOME: run.folder } }
    }

    async start() {
      const { cwd, server, port, folder } = this.#run
      const { script = server.program[0], args = [], ...rest } = server.pm2 ?? {}
      const file = join(folder, 'ecosystem.config.json')
      const app = {
        name: 'server',
        script,
        args: withPort(args, port),
        cwd,
        instances: WORKERS,
        exec_mode: 'cluster',
        ...rest
      }
      writeFileSync(file, JSON.stringify({ apps: [app] }))
      await this.#pm2('start', file)
      await until(
        () => isOpen(port),
        START,
        () => this.#words
      )
    }

    get pid() {
      return Number(readFileSync(join(this.#run.folder, 'pm2.pid'), 'utf8'))
    }

    get words() {
      return this.#words
    }

    reload() {
      return this.#pm2('reload', 'server')
    }

    async stop() {
      const { pid } = this
      await this.#pm2('kill') // its servers, then its daemon
      await until(
        () => !isAlive(pid),
        STOP,
        () => this.#words
      )
      return 0
    }

    async #pm2(...args) {
      this.#words += await output([execPath, PM2, ...args], this.#run, RELOAD)
    }
  },

  none: class {
    #run
    #child
    #exit
    words = ''

    constructor(run) {
      this.#run = run
    }

    async start() {
      const { cwd, env, server, port } = this.#run
      const [first, ...rest] = withPort(server.program, port)
      const isFile = /^-|\.[cm]?[jt]s$/.test(first)
      const command = first === '--' ? rest : isFile ? [execPath, first, ...rest] : [first, ...rest]
      this.#child = start(command, { cwd, env })
      this.#child.stdout.resume()
      this.#child.stderr.resume()
      this.#exit = once(this.#child, 'exit')
      await until(
        () => isOpen(port),
        START,
        () => '',
        this.#child
      )
    }

    get pid() {
      return this.#child.pid
    }

    async reload() {}

    async stop() {
      kill(this.pid, 'SIGTERM')
      const [code, signal] = await this.#exit
      return signal ?? code
    }
  }
}

function withPort(words, port) {
  return words.map(word => word.replace('$PORT', port))
}

function isAlive(pid) {
  try {
    return kill(pid, 0)
  } catch {
    return false
  }
}
