/** Processes that take over from each other. */
import { EventEmitter, once } from 'node:events'
import { connect, type Socket } from 'node:net'
import type { ExecutionContext } from 'ava'
import { own } from '../../src/descriptor/descriptor.ts'
import { Descriptor } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { listenOn } from '../../src/os/socket-name.ts'
import { apply } from '../../src/takeover/apply.ts'
import { Owner } from '../../src/takeover/owner.ts'
import { Life } from '../../src/takeover/pipes.ts'
import { takeoverCommands } from '../fixtures/takeover-commands.mjs'
import { type Running, startFixture } from './process.ts'

export interface Side extends AnySide {
  readonly running: Running
}

/** A process, or a part of this one. */
export interface AnySide {
  /** What it answers clients; of a process its pid. */
  readonly pid: number
  /** Has the fixture do something; rejects with its error's code and message. */
  ask<T>(command: string, ...values: unknown[]): Promise<T>
  /** What it tells by itself: 'step', 'rollBack', 'letGo', 'report', 'drops'. Each is kept until somebody asks for it. */
  told<T>(event: string): Promise<T>
  end(): Promise<void>
}

export function startSide(t: ExecutionContext, path: string, options: Record<string, unknown> = {}): Side {
  return drive(t, startFixture('takeover-side', [path, JSON.stringify(options)]))
}

let locals = 0

/** The same in this process, for those to whom nothing happens. It ends with the test, if not before. */
export function localSide(t: ExecutionContext, path: string, options: Record<string, unknown> = {}): AnySide {
  const who = -++locals
  const { tell, told } = hearing()
  const passfd = { apply, Descriptor, Life, listenOn, native, Owner, own }
  const commands = takeoverCommands(passfd, { path, who, tell, options })
  let ended: Promise<void> | undefined
  const end = (): Promise<void> => (ended ??= commands.end!() as Promise<void>)
  t.teardown(end)
  return {
    pid: who,
    ask: async (command, ...values) => {
      try {
        return ((await commands[command]!(...values)) ?? null) as any
      } catch (error) {
        const { code, message } = error as NodeJS.ErrnoException
        throw new Error(`${code}: ${message}`)
      }
    },
    told,
    end
  }
}

/** A program with a Seat: see test/fixtures/seat.mjs. */
export function startSeat(
  t: ExecutionContext,
  path: string,
  options: Record<string, unknown> = {},
  node?: string
): Side {
  return drive(t, startFixture('seat', [JSON.stringify({ path, ...options })], { node }))
}

/** A program with a Seat and many live streams: see test/fixtures/seat-streams.mjs. */
export function startStreams(t: ExecutionContext, path: string, pipes: number): Side {
  return drive(t, startFixture('seat-streams', [path, `${pipes}`]))
}

/** A program with a Supervisor: see test/fixtures/prefork-supersedes.mjs. */
export function startSupervisor(t: ExecutionContext, options: Record<string, unknown>, node?: string): Side {
  return drive(t, startFixture('prefork-supersedes', [JSON.stringify(options)], { node }))
}

function drive(t: ExecutionContext, running: Running): Side {
  t.teardown(() => void running.child.kill('SIGKILL'))
  const answers = new Map<number, { resolve(value: any): void; reject(error: Error): void }>()
  const { tell, told } = hearing()
  let count = 0
  const listen = async (): Promise<void> => {
    for (;;) {
      const { id, value, error, event, of } = JSON.parse(await running.line())
      if (event !== undefined) tell({ event, of })
      else if (error !== undefined) answers.get(id)?.reject(new Error(error))
      else answers.get(id)?.resolve(value)
      answers.delete(id)
    }
  }
  listen().catch(error => {
    for (const { reject } of answers.values()) reject(error)
  })
  return {
    running,
    pid: running.child.pid!,
    ask: (command, ...values) =>
      new Promise((resolve, reject) => {
        const id = ++count
        answers.set(id, { resolve, reject })
        running.child.stdin?.write(`${JSON.stringify([id, command, ...values])}\n`)
      }),
    told,
    end: async () => {
      running.child.stdin?.end()
      await running.exit
    }
  }
}

/** What a process holds, as it answers `command` by numbers, is no more than it held before. Newer Nodes close something soon after their start. */
export async function settled(t: ExecutionContext, side: AnySide, command: string, before: number[]): Promise<void> {
  let now: number[] = []
  for (let tries = 0; tries < 200; tries++) {
    now = await side.ask<number[]>(command)
    if (now.every((count, at) => count <= before[at]!)) return
  }
  t.deepEqual(now, before)
}

function hearing(): { tell(told: { event: string; of: unknown }): void; told: Side['told'] } {
  const events = new EventEmitter()
  const heard = new Map<string, unknown[]>()
  return {
    tell: ({ event, of }) => {
      heard.set(event, [...(heard.get(event) ?? []), of])
      events.emit(event)
    },
    told: async event => {
      while ((heard.get(event)?.length ?? 0) === 0) await once(events, event)
      return heard.get(event)!.shift() as any
    }
  }
}

/** What the owner answers a client: its pid and its count. */
export async function asked(place: number | string): Promise<[pid: number, count: string]> {
  const client = dialled(place).setEncoding('utf8')
  let text = ''
  for await (const part of client) text += part
  const [pid, count = ''] = text.split(' ')
  return [Number(pid), count]
}

export function dialled(place: number | string): Socket {
  return typeof place === 'string' ? connect(place) : connect(place, '127.0.0.1')
}
