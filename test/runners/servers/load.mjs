/** Clients that send requests of many kinds until they are stopped. Each counts its answers, and explains each request that gets none. */
import { setTimeout as later } from 'node:timers/promises'
import { HttpConnection } from './http-connection.mjs'

/** A kept-alive connection rests for so long between two requests, in ms: from none to twice passfd's idleGrace. */
const PAUSES = [10, 30, 100, 300, 700, 1_000, 1_500, 2_000]
const BODY = 50_000

/**
 * `paths`: where the server answers requests of each kind; `undefined`: it has none of that kind. `large`: the length of the large body.
 */
export class Load {
  #port
  #paths
  #large
  #random
  #stopped = false
  #loops = []
  #started = performance.now()
  /** `run`, `stop` (the server was told to stop). */
  phase = 'run'
  /** By kind. */
  answers = {}
  failures = []
  /** Connections that the server has ended while no request was under way. */
  endedIdle = 0
  /** Connections that the clients have closed themselves, because they were not run for almost the server's keepAliveTimeout. */
  expired = 0
  /**
   * Requests on connections that a stopping server had closed after idleGrace, while they were sent. At a reload none is lost; at a stop nobody
   * can go on with the connection: docs/prefork.md, "Good to know".
   */
  lostAtStop = 0
  refused = 0

  constructor({ port, paths, large, seed }) {
    this.#port = port
    this.#paths = paths
    this.#large = large
    this.#random = randomOf(seed)
  }

  start() {
    const { small, slow, post, large } = this.#paths
    const get = (path, more = '') => `GET ${path} HTTP/1.1\r\nHost: localhost\r\n${more}\r\n`
    const closing = 'Connection: close\r\n'
    for (const pause of PAUSES)
      this.#loop(`kept alive, ${pause} ms`, pause, connection => this.#exchange(connection, [get(small)]))
    for (const pause of [50, 100, 200])
      this.#loop('Connection: close', pause, connection => this.#exchange(connection, [get(small, closing)]))
    this.#loop('pipelined', 100, connection => this.#exchange(connection, [get(small), get(small), get(small)]))
    this.#loop('in two parts', 50, async connection => {
      const request = get(small)
      connection.write(request.slice(0, 20))
      await later(this.#random() * 300)
      return this.#exchange(connection, [request.slice(20)])
    })
    // As browsers open connections beforehand
    this.#loop('late', 50, async connection => {
      if (connection.answers === 0) await later(this.#random() * 3_000)
      return connection.ended ? [] : this.#exchange(connection, [get(small, closing)])
    })
    if (slow !== undefined)
      for (const more of ['', '', closing])
        this.#loop('slow answer', 20, connection => this.#exchange(connection, [get(slow, more)]))
    if (large !== undefined) {
      this.#loop('large body', 500, connection => this.#exchange(connection, [get(large)], { length: this.#large }))
      this.#loop('large body, read slowly', 100, connection => {
        connection.readSlowly(10)
        return this.#exchange(connection, [get(large, closing)], { length: this.#large })
      })
    }
    if (post !== undefined)
      for (const more of ['', closing])
        this.#loop('POST', 100, connection => {
          const text = String.fromCharCode(97 + this.#random() * 26).repeat(1 + this.#random() * BODY)
          const body = JSON.stringify({ text })
          const head = `POST ${post} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n${more}\r\n`
          return this.#exchange(connection, [head + body], { body: text })
        })
  }

  /** The clients end after their requests under way. */
  async stop() {
    this.#stopped = true
    await Promise.all(this.#loops)
  }

  /** Resolves when the server refuses all of them. */
  async refusedAll() {
    await Promise.all(this.#loops)
  }

  get total() {
    return Object.values(this.answers).reduce((sum, count) => sum + count, 0)
  }

  /** Sends what `exchange` sends, again and again, with `pause` ms in between (and a tenth more or less). */
  #loop(kind, pause, exchange) {
    this.answers[kind] = 0
    this.#loops.push(this.#run(kind, pause, exchange))
  }

  async #run(kind, pause, exchange) {
    let connection
    while (!this.#stopped) {
      if (connection?.ended || connection?.expires) {
        if (connection.ended) this.endedIdle++
        else this.expired++
        connection.close()
        connection = undefined
      }
      const { phase } = this
      if (connection === undefined) {
        try {
          connection = await HttpConnection.open(this.#port)
        } catch (error) {
          if (error.code === 'ECONNREFUSED' && this.phase === 'stop') {
            this.refused++
            return
          }
          this.#fail(kind, phase, { error: `${error.code} at ${error.syscall}()`, answers: 0 })
          await later(100)
          continue
        }
      }
      const began = performance.now()
      const { idle, sentBefore, read } = connection.explain({})
      try {
        const answers = await exchange(connection)
        this.answers[kind] += answers.length
        if (answers.length > 0 && !answers.at(-1).close) {
          await later(pause * (0.9 + this.#random() * 0.2))
          continue
        }
        if (answers.length === 0) this.endedIdle++
      } catch (error) {
        const facts = connection.explain(error)
        const isClosed = connection.ended && facts.read === read && idle !== undefined
        if (phase === 'stop' && isClosed) this.lostAtStop++
        else this.#fail(kind, phase, { ...facts, idle, sentBefore, took: Math.round(performance.now() - began) })
      }
      connection.close()
      connection = undefined
      await later(pause * (0.9 + this.#random() * 0.2))
    }
    connection?.close()
  }

  /** Sends requests in one write, and resolves to their answers. */
  async #exchange(connection, requests, { length, body } = {}) {
    connection.write(requests.join(''))
    const answers = []
    for (const _ of requests) {
      const answer = await connection.answer(length === undefined)
      if (!(answer.status >= 200 && answer.status < 300)) throw new Error(`status ${answer.status}`)
      if (length !== undefined && answer.length !== length) throw new Error(`${answer.length} bytes of ${length}`)
      if (body !== undefined && JSON.parse(answer.body).text !== body) throw new Error('another body')
      answers.push(answer)
      // The server answers no request behind it
      if (answer.close) break
    }
    if (answers.length < requests.length)
      throw new Error(`${answers.length} answers to ${requests.length} requests, then Connection: close`)
    return answers
  }

  #fail(kind, phase, facts) {
    const at = Math.round(performance.now() - this.#started)
    this.failures.push({ kind, phase: phase === this.phase ? phase : `${phase}, ${this.phase}`, at, ...facts })
  }
}

/** mulberry32: the same numbers from 0 to 1 for the same seed. */
function randomOf(seed) {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
