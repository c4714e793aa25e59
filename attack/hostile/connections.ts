/** How a process that keeps to no rule gets its connections. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as nap } from 'node:timers/promises'
import { checked } from '../../src/base/errors.ts'
import { native } from '../../src/os/native.ts'
import { receive, type Segment, type SocketType } from './traffic.ts'

export interface Connection {
  readonly fd: number
  /** Or nobody listens. */
  readonly isOpen: boolean
  close(): void
}

const SEQPACKET = 5
const BACKLOG = 50

export function connectedTo(name: Buffer, type: SocketType): Connection {
  const fd = checked(native.socket(type), 'socket')
  const isOpen = native.connect(fd, name) >= 0
  return { fd, isOpen, close: () => void native.close(fd) }
}

/** Workers come to a socket and give their ends of their control channels: worker.mjs. */
export class Given {
  readonly #listener: number

  constructor(path: string) {
    this.#listener = checked(native.socket(SEQPACKET), 'socket')
    checked(native.bind(this.#listener, Buffer.from(path), 0o600), 'bind')
    checked(native.listen(this.#listener, BACKLOG), 'listen')
  }

  async next(): Promise<Connection> {
    for (;;) {
      const hands = native.accept(this.#listener)
      const message = hands < 0 ? undefined : await firstOf(hands)
      const [fd] = message?.fds ?? []
      if (fd !== undefined)
        return {
          fd,
          isOpen: true,
          close() {
            native.close(fd)
            native.close(hands)
          }
        }
      if (hands >= 0) native.close(hands) // the worker was killed meanwhile
      await nap(2)
    }
  }

  close(): void {
    native.close(this.#listener)
  }
}

async function firstOf(fd: number): Promise<ReturnType<typeof receive>> {
  for (;;) {
    const message = receive(fd, SEQPACKET)
    if (message !== undefined) return message
    await nap(1)
  }
}

/** The desk of the supervisor of scenarios/desk.mjs. */
export function deskOf(folder: string): { name: string; token: string } {
  return JSON.parse(readFileSync(join(folder, 'desk'), 'utf8'))
}

/** What processes of a program ask at a desk, each by a packet on a connection of its own: src/prefork/control/desk.ts. */
export function questions(folder: string): Segment[][] {
  const { token } = deskOf(folder)
  const asking = { type: 'join', version: 1, newest: 6, debugPort: 9229 }
  return [
    { token, nth: 0, join: asking, wanted: { path: join(folder, 'web'), mode: 0o600 } },
    { token, nth: 0, join: asking, wanted: { path: join(folder, 'other'), mode: 0o600, backlog: 5 } },
    { token, nth: 1, join: asking, wanted: { port: 0, host: '127.0.0.1' } },
    { token, nth: 0, join: asking, wanted: { type: 'udp4', port: 0 } },
    { token, nth: 0, join: asking, left: [['web', 1]] },
    { token: '', nth: 0, join: asking }
  ].map(question => [{ bytes: Buffer.from(JSON.stringify(question)), count: 0 }])
}
