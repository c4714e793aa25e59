/** A client of HTTP/1 that says just what it is told, and tries nothing twice. */
import { once } from 'node:events'
import { connect, type NetConnectOpts, type Server, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'

export interface Answer {
  head: string
  body: string
}

export class Client {
  readonly socket: Duplex
  /** Resolves when the server has ended the connection, to the error if there is one. */
  readonly ended: Promise<Error | undefined>
  #text = ''
  #over = false

  constructor(socket: Duplex) {
    this.socket = socket
    socket.on('data', part => {
      this.#text += part.toString('latin1')
    })
    this.ended = new Promise(resolve => {
      socket.once('error', resolve)
      socket.once('end', () => resolve(undefined))
      socket.once('close', () => resolve(undefined))
    })
    void this.ended.then(() => {
      this.#over = true
    })
  }

  /** Connected to the address of a server. */
  static async of(server: Server): Promise<Client> {
    const address = server.address()
    return Client.to(typeof address === 'string' ? { path: address } : { port: address!.port, host: '127.0.0.1' })
  }

  static async to(address: NetConnectOpts): Promise<Client> {
    const socket: Socket = connect({ ...address, allowHalfOpen: true })
    await once(socket, 'connect')
    return new Client(socket)
  }

  get over(): boolean {
    return this.#over
  }

  /** All that came and is no answer yet. */
  get text(): string {
    return this.#text
  }

  say(words: string): this {
    this.socket.write(words)
    return this
  }

  get(path = '/', headers = ''): this {
    return this.say(`GET ${path} HTTP/1.1\r\nHost: here\r\n${headers}\r\n`)
  }

  /** The next answer, whole. `bodiless`: to HEAD, or one like 100. Fails if the connection ends before. */
  async answer({ bodiless = false } = {}): Promise<Answer> {
    for (;;) {
      const end = this.#text.indexOf('\r\n\r\n')
      const head = end < 0 ? '' : this.#text.slice(0, end)
      const rest = this.#text.slice(end + 4)
      const length = end < 0 ? -1 : bodiless ? 0 : bodyLength(head, rest, this.#over)
      if (length >= 0) {
        this.#text = rest.slice(length)
        return { head, body: rest.slice(0, length) }
      }
      if (this.#over) throw new Error(`the connection ended after ${JSON.stringify(this.#text)}: ${await this.ended}`)
      await Promise.race([once(this.socket, 'data'), this.ended])
    }
  }

  /** Until the client's side is closed, too. */
  async close(): Promise<void> {
    if (this.socket.closed) return
    this.socket.destroy()
    await once(this.socket, 'close')
  }
}

/** Of what has come, or -1 if there is more to come. */
function bodyLength(head: string, rest: string, over: boolean): number {
  const length = /^content-length: (\d+)/im.exec(head)?.[1]
  if (length !== undefined) return rest.length >= Number(length) ? Number(length) : -1
  if (/^HTTP\/1.1 (1|204|304)/.test(head)) return 0
  if (/^transfer-encoding: chunked/im.test(head)) {
    const end = rest.indexOf('0\r\n\r\n')
    return end < 0 ? -1 : end + 5
  }
  return over ? rest.length : -1
}
