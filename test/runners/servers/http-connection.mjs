/** One HTTP/1.1 connection of a client that never repeats a request, and knows what it has sent and read when a request fails. */
import { once } from 'node:events'
import net from 'node:net'

const HEAD_END = Buffer.from('\r\n\r\n')
const LIMIT = 30_000

export class HttpConnection {
  #socket
  /** Bytes that no answer has used. */
  #unread = Buffer.alloc(0)
  #wake = () => {}
  #error
  #ended = false
  #answeredAt
  /** When the last request was sent. From then on the server's keepAliveTimeout may run, however late this process reads the answer. */
  #sentAt
  /** ms that the server promises to keep it open: `Keep-Alive: timeout=5` */
  #promised = Infinity
  answers = 0
  /** The pid in the last answer that had one. */
  pid

  /** Rejects with the system's error. */
  static async open(port, host = '127.0.0.1') {
    const connection = new HttpConnection()
    const socket = net.connect({ port, host, noDelay: true })
    connection.#socket = socket
    socket.on('data', bytes => {
      connection.#unread = connection.#unread.length === 0 ? bytes : Buffer.concat([connection.#unread, bytes])
      connection.#wake()
    })
    socket.on('end', () => {
      connection.#ended = true
      connection.#wake()
    })
    socket.on('error', error => {
      connection.#error = error
      connection.#wake()
    })
    await once(socket, 'connect') // or its 'error'
    return connection
  }

  /** Whether the server has ended it: a client does not use it again. */
  get ended() {
    return this.#ended || this.#error !== undefined
  }

  /** Whether the server may end it soon by its own time-out. Clients such as Node's Agent leave a second, too. */
  get expires() {
    return performance.now() - this.#sentAt > this.#promised - 1_000
  }

  write(bytes) {
    this.#socket.write(bytes)
    this.#sentAt = performance.now()
  }

  close() {
    this.#socket.destroy()
  }

  /** Reads slowly from now on: a pause of `pause` ms after each chunk. */
  readSlowly(pause) {
    this.#socket.on('data', () => {
      this.#socket.pause()
      setTimeout(() => this.#socket.resume(), pause)
    })
  }

  /** Resolves to the next answer: `{ status, length, body, close }`; `body` without `keep` is empty. Rejects if it does not come whole. */
  async answer(keep) {
    const head = (await this.#take(HEAD_END)).toString('latin1')
    const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(head)?.[1])
    const close = /\r\nconnection: *close/i.test(head)
    const timeout = /\r\nkeep-alive:[^\r]*timeout=(\d+)/i.exec(head)?.[1]
    if (timeout !== undefined) this.#promised = Number(timeout) * 1_000
    const chunks = []
    let length = 0
    const body = bytes => {
      length += bytes.length
      if (keep) chunks.push(bytes)
    }
    const announced = /\r\ncontent-length: *(\d+)/i.exec(head)?.[1]
    if (announced !== undefined) await this.#read(Number(announced), body)
    else if (/\r\ntransfer-encoding: *chunked/i.test(head)) {
      for (let size = -1; size !== 0; ) {
        size = Number.parseInt((await this.#take(Buffer.from('\r\n'))).toString('latin1'), 16)
        await this.#read(size, body)
        await this.#read(2, () => {})
      }
    } else throw new Error(`no length in ${JSON.stringify(head)}`)
    this.answers++
    this.#answeredAt = performance.now()
    const text = Buffer.concat(chunks).toString()
    if (text.length < 2_000) this.pid = /\d{2,}/.exec(text)?.[0] ?? this.pid
    return { status, length, body: text, close }
  }

  /** What explains a failure: how it has ended, what it had sent and read. */
  explain(error) {
    const { bytesWritten, bytesRead, writableLength, localPort } = this.#socket
    return {
      error: error.syscall === undefined ? error.message : `${error.code} at ${error.syscall}()`,
      sent: bytesWritten - writableLength,
      unsent: writableLength,
      read: bytesRead,
      unread: this.#unread.length,
      answers: this.answers,
      idle: sinceNow(this.#answeredAt),
      sentBefore: sinceNow(this.#sentAt),
      pid: this.pid,
      port: localPort
    }
  }

  /** The bytes up to and with `end`. */
  async #take(end) {
    for (;;) {
      const at = this.#unread.indexOf(end)
      if (at >= 0) {
        const taken = this.#unread.subarray(0, at + end.length)
        this.#unread = this.#unread.subarray(at + end.length)
        return taken
      }
      await this.#more()
    }
  }

  async #read(length, use) {
    for (let missing = length; missing > 0; ) {
      if (this.#unread.length === 0) await this.#more()
      const taken = this.#unread.subarray(0, missing)
      this.#unread = this.#unread.subarray(taken.length)
      missing -= taken.length
      use(taken)
    }
  }

  async #more() {
    if (this.#error !== undefined) throw this.#error
    if (this.#ended) throw new Error('the server has ended the connection')
    let timer
    await new Promise((resolve, reject) => {
      this.#wake = resolve
      timer = setTimeout(() => reject(new Error(`nothing has come for ${LIMIT / 1000} s`)), LIMIT)
    })
    clearTimeout(timer)
    this.#wake = () => {}
  }
}

function sinceNow(time) {
  return time === undefined ? undefined : Math.round(performance.now() - time)
}
