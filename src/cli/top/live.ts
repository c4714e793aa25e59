/** The live view: what the supervisor sends, what is pressed, and the picture of both. */
import type { ReadStream, WriteStream } from 'node:tty'
import type { AdminCommand, AdminEvent } from '../../prefork/index.ts'
import type { Colors } from '../ui.ts'
import { type Action, type Key, press } from './keys.ts'
import type { Monitor } from './monitor.ts'
import { draw, type Happening, LOOKS, type Picture } from './picture.ts'
import { Screen } from './screen.ts'
import { describe, viewOf } from './view.ts'

const MOST_HAPPENINGS = 500
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const
/** In ms: by then a stop signal has stopped this process, or it has no effect because no shell would continue it. */
const STOPPED = 100

export interface Terminal {
  stdin: ReadStream
  stdout: WriteStream
  colors: Colors
}

export class Live {
  readonly #monitor: Monitor
  readonly #screen: Screen
  readonly #colors: Colors
  #picture: Picture
  #happenings: Happening[] = []
  #wanted: number | undefined
  #scalings = 0
  #end: (signal?: NodeJS.Signals) => void = () => {}

  constructor(target: string, monitor: Monitor, { stdin, stdout, colors }: Terminal) {
    this.#monitor = monitor
    this.#colors = colors
    this.#screen = new Screen(stdin, stdout, { onKey: key => this.#onKey(key), onResize: () => this.#draw() })
    this.#picture = { target, view: undefined, lost: undefined, happenings: [], message: undefined, looks: LOOKS }
    this.#follow(monitor)
  }

  /** Resolves at the end: with the signal that has ended it, if one has. The terminal is as it was before. */
  async run(): Promise<NodeJS.Signals | undefined> {
    const ended = new Promise<NodeJS.Signals | undefined>(resolve => {
      this.#end = resolve
    })
    const onSignal = (signal: NodeJS.Signals): void => this.#end(signal)
    for (const signal of SIGNALS) process.on(signal, onSignal)
    process.on('SIGTSTP', this.#suspend)
    process.on('SIGCONT', this.#resume)
    this.#screen.open()
    this.#draw()
    try {
      return await Promise.race([ended, this.#monitor.run().then(() => undefined)])
    } finally {
      this.#monitor.close()
      this.#screen.close()
      for (const signal of SIGNALS) process.off(signal, onSignal)
      process.off('SIGTSTP', this.#suspend)
      process.off('SIGCONT', this.#resume)
    }
  }

  #follow(monitor: Monitor): void {
    monitor.on('sample', sample => {
      if (this.#picture.lost !== undefined) this.#happened(`process ${sample.status.pid} answers`)
      this.#draw({ view: viewOf(this.#picture.view, sample), lost: undefined })
    })
    monitor.on('event', event => this.#onEvent(event))
    monitor.on('lost', error => {
      const reason = reasonOf(error)
      this.#happened(`nobody answers: ${reason}`)
      this.#draw({ lost: { time: Date.now(), reason }, message: undefined })
    })
    monitor.on('replaced', (before, now) =>
      this.#happened(`process ${now.pid} has taken the place of process ${before.pid}`)
    )
  }

  #onEvent(event: AdminEvent): void {
    const text = describe(event)
    if (text !== undefined) this.#happened(text, event.worker?.slot)
  }

  #happened(text: string, slot?: number): void {
    this.#happenings = [...this.#happenings, { time: Date.now(), text, slot }].slice(-MOST_HAPPENINGS)
    this.#draw({ happenings: this.#happenings })
  }

  #draw(changed: Partial<Picture> = {}): void {
    this.#picture = { ...this.#picture, ...changed }
    this.#screen.show(draw(this.#picture, this.#screen.size, this.#colors))
  }

  #onKey(key: Key): void {
    const { looks, view, lost } = this.#picture
    const [changed, action] = press(looks, key, lost === undefined ? view : undefined)
    this.#draw({ looks: changed, message: undefined })
    if (action !== undefined) this.#act(action)
  }

  #act(action: Action): void {
    if (action === 'quit') this.#end()
    else if (action === 'suspend') this.#suspend()
    else if (action === 'grow') void this.#scale(1)
    else if (action === 'shrink') void this.#scale(-1)
    else void this.#command(action, { command: action })
  }

  /** Presses that come faster than the answers add up. */
  async #scale(by: number): Promise<void> {
    const workers = Math.max(1, (this.#wanted ?? this.#picture.view!.sample.status.size) + by)
    this.#wanted = workers
    this.#scalings++
    await this.#command(`scale ${workers}`, { command: 'scale', workers })
    if (--this.#scalings === 0) this.#wanted = undefined
  }

  async #command(name: string, command: AdminCommand): Promise<void> {
    const began = performance.now()
    this.#draw({ message: `${name}: under way` })
    let outcome: string
    try {
      await this.#monitor.command(command)
      outcome = command.command === 'stop' ? 'stop: begun' : `${name}: done in ${seconds(began)}`
    } catch (error) {
      const { message, remote } = error as Error & { remote?: Error }
      outcome = `${name}: failed: ${remote?.message ?? message}`
    }
    this.#happened(outcome)
    this.#draw({ message: outcome })
  }

  readonly #suspend = (): void => {
    this.#screen.close()
    process.off('SIGTSTP', this.#suspend)
    process.kill(0, 'SIGTSTP') // the whole job, as a terminal does
    setTimeout(this.#resume, STOPPED)
  }

  readonly #resume = (): void => {
    process.off('SIGTSTP', this.#suspend)
    process.on('SIGTSTP', this.#suspend)
    this.#screen.open()
    this.#draw()
  }
}

/** Why nobody answers, in words. */
function reasonOf({ code = '', message, name }: NodeJS.ErrnoException): string {
  if (['ERR_PASSFD_CLOSED', 'ERR_PASSFD_DISCONNECTED', 'ECONNRESET'].includes(code)) return 'the server has ended'
  if (['ENOENT', 'ECONNREFUSED'].includes(code)) return 'no server is there'
  if (name === 'TimeoutError' || code.endsWith('_TIMEOUT')) return 'the server does not answer in time'
  return message.replace(/\.$/, '')
}

function seconds(began: number): string {
  return `${((performance.now() - began) / 1000).toFixed(1)} s`
}
