// Clients that ask all the time, try nothing twice, and count how each request ended. It knows nothing of passfd: it can be pointed at any server.
//
// argv[2] is JSON:
//   host, port, or path   where the server listens
//   tls                   true: TLS, certificates are not checked; 'psk': TLS with the tests' known key
//   timeout               ms after which a request counts as timed out; default 20,000
//   from                  'several': each client has an address of its own, of 127.0.1.0/24
//   most                  how many failures it lists; default 100
//   refusals              true: among them requests that were refused
//   mix                   [{ kind, name, clients, think, pause, size, events, most, expect, requests, query }]: see KINDS and DEFAULTS; each may have
//                         host, port, path, tls and timeout of its own
//   seconds               when it ends by itself; otherwise when all clients have made their requests, or at the line `end` on stdin
// On stdin: a number N: it prints a line once N more requests were answered; `refused N`: once N more were refused; `wake`: clients that think until
// they are woken go on; `count`: it prints { total, failures }, those since the last time; `end`.
// At the end it prints one line of JSON: { total, kinds, failures, idle }; `total` and each kind (or name) are counts of OUTCOMES, `failures` the first that
// are neither answered nor refused, `idle` how many connections of clients that were woken were there then, `kept`, or had ended, `ended`.
import { createHash, randomUUID } from 'node:crypto'
import { createSocket } from 'node:dgram'
import * as http2 from 'node:http2'
import { connect } from 'node:net'
import { createInterface } from 'node:readline'
import { setTimeout as later } from 'node:timers/promises'
import { connect as secure } from 'node:tls'

const OUTCOMES = ['answered', 'refused', 'reset', 'empty', 'timedOut', 'wrong']
const DEFAULTS = {
  host: '127.0.0.1',
  tls: false,
  timeout: 20_000,
  clients: 1,
  /** ms between an answer and the next request; 'wake': until it is woken. */
  think: 0,
  /** ms between the parts of a request. */
  pause: 15,
  /** Bytes of an upload. */
  size: 100_000,
  /** Events that a stream is asked for. */
  events: 5,
  /** Requests on one connection. */
  most: Infinity,
  /** Requests of a client. */
  requests: Infinity,
  /** The body: 'echo', the id that the request's path names (an upload: and its size and SHA-256); 'any'. */
  expect: 'echo',
  /** Behind the path of a `close` or `keepAlive` request. */
  query: ''
}
/** After a refusal a client waits so long, in ms. */
const REST = 20
const REFUSED = new Set(['ECONNREFUSED', 'ENOENT', 'EAGAIN'])
const RESET = new Set(['ECONNRESET', 'EPIPE', 'ECONNABORTED'])

const { mix, seconds, most: mostFailures = 100, refusals = false, from, ...target } = JSON.parse(process.argv[2])
// Loading it costs as much as to start Node
const { WebSocket } = mix.some(({ kind }) => kind === 'webSocket') ? await import('ws') : {}
const nameOf = ({ kind, name = kind }) => name
const counts = new Map(mix.map(one => [nameOf(one), none()]))
const total = none()
const failures = []
const goals = []
const idle = { kept: 0, ended: 0 }
let counted = 0
let ending = false
let wake
const woken = new Promise(resolve => {
  wake = resolve
})

function none() {
  return Object.fromEntries(OUTCOMES.map(outcome => [outcome, 0]))
}

/** What ends a request other than its answer. */
class Ended extends Error {
  constructor(outcome, code = '') {
    super(`${outcome} ${code}`)
    this.outcome = outcome
    this.code = code
  }
}

function endOf(error) {
  if (error instanceof Ended) return error
  const { code, errno, message } = error
  // Node calls a FIN in the middle of a handshake a reset
  if (code === 'ECONNRESET' && errno === undefined) return new Ended('empty', message)
  if (REFUSED.has(code)) return new Ended('refused', code)
  if (RESET.has(code)) return new Ended('reset', code)
  return code === 'ETIMEDOUT' ? new Ended('timedOut', code) : new Ended('wrong', code ?? message)
}

/** A connection, and the way it has ended if it has. Its bytes are gathered until somebody takes them. */
class Connection {
  bytes = Buffer.alloc(0)
  end = undefined
  #waiting = () => {}

  static async open({ host, port, path, tls, localAddress }, alpn) {
    const connection = new Connection()
    connection.opened = Date.now()
    const raw = connect(path === undefined ? { host, port, ...(localAddress && { localAddress }) } : { path })
    connection.raw = raw
    // It has one from the next tick on, and none any more when it has failed
    process.nextTick(() => {
      connection.port = raw.localPort
    })
    raw.on('error', error => connection.#over(endOf(error)))
    raw.on('end', () => setImmediate(() => connection.#over(new Ended('empty', 'FIN'))))
    raw.on('close', () => setImmediate(() => connection.#over(new Ended('empty', 'closed'))))
    if (tls === false) connection.stream = raw
    else {
      connection.stream = secure({ socket: raw, rejectUnauthorized: false, ALPNProtocols: alpn, ...keyOf(tls) })
      // What happens to the socket says it better
      connection.stream.on('error', error => setImmediate(() => connection.#over(endOf(error))))
    }
    const { stream } = connection
    await connection.until(
      () => connection.ready,
      () => {
        stream.once(tls === false ? 'connect' : 'secureConnect', () => {
          connection.ready = true
          connection.#waiting()
        })
      }
    )
    return connection
  }

  /** Gathers what comes; for protocols of which no library reads. */
  read() {
    this.stream.on('data', part => {
      this.bytes = Buffer.concat([this.bytes, part])
      this.#waiting()
    })
    return this
  }

  /** Resolves to what `done` returns once that is something; rejects with what ends it. */
  async until(done, begin = () => {}) {
    begin()
    for (;;) {
      const value = done()
      if (value) return value
      if (this.end !== undefined) throw this.end
      await new Promise(resolve => {
        this.#waiting = resolve
      })
    }
  }

  #over(end) {
    this.end ??= Object.assign(end, { connection: this })
    this.#waiting()
  }

  /** For libraries that read by themselves: rejects with what ends it. */
  async broken() {
    await this.until(() => false)
  }

  destroy() {
    this.stream.on('error', () => {}).destroy()
    this.raw.destroy()
  }
}

function keyOf(kind) {
  if (kind !== 'psk') return {}
  const psk = Buffer.alloc(16, 'known')
  const pskCallback = () => ({ psk, identity: 'test' })
  return { ciphers: 'PSK', maxVersion: 'TLSv1.2', pskCallback, checkServerIdentity: () => undefined }
}

/** The end of an answer that has begun, or has not. */
function cut(connection) {
  if (connection.end?.outcome === 'empty' && connection.bytes.length > 0)
    throw new Ended('wrong', `cut off after ${connection.bytes.length} bytes`)
}

/** One answer of HTTP/1: its head and body, taken from the connection. */
async function answer(connection) {
  return connection.until(() => {
    const at = connection.bytes.indexOf('\r\n\r\n')
    const head = at < 0 ? '' : connection.bytes.toString('latin1', 0, at)
    const parsed = at < 0 ? undefined : bodyOf(connection, head, at + 4)
    if (parsed === undefined) {
      cut(connection)
      if (at < 0 && !'HTTP/1.1 '.startsWith(connection.bytes.toString('latin1', 0, 9)))
        throw new Ended('wrong', 'not HTTP')
      return undefined
    }
    if (!head.startsWith('HTTP/1.1 200 ')) throw new Ended('wrong', head.split('\r\n')[0])
    connection.bytes = connection.bytes.subarray(parsed.next)
    return { head, body: parsed.body, last: /^connection:.*\bclose\b/im.test(head) }
  })
}

/** Undefined while some of it is missing. */
function bodyOf({ bytes, end }, head, from) {
  const length = /^content-length: *(\d+) *$/im.exec(head)?.[1]
  if (length !== undefined) {
    const next = from + Number(length)
    return next > bytes.length ? undefined : { body: bytes.toString('utf8', from, next), next }
  }
  if (/^transfer-encoding: *chunked *$/im.test(head)) {
    let body = ''
    for (let at = from; ; ) {
      const line = bytes.indexOf('\r\n', at)
      if (line < 0) return undefined
      const size = Number.parseInt(bytes.toString('latin1', at, line), 16)
      if (Number.isNaN(size)) throw new Ended('wrong', 'chunks')
      const next = line + 2 + size + 2
      if (next > bytes.length) return undefined
      if (size === 0) return { body, next }
      body += bytes.toString('utf8', line + 2, line + 2 + size)
      at = next
    }
  }
  return end?.outcome === 'empty' ? { body: bytes.toString('utf8', from), next: bytes.length } : undefined
}

function check(actual, expected, { expect }) {
  if (expect === 'echo' && actual !== expected) throw new Ended('wrong', `${actual.slice(0, 100)}, not ${expected}`)
}

/** HTTP/1: `say` sends the request. Further requests use the connection again if the server leaves it open. */
function http1(say, { close = false, expected = id => id } = {}) {
  return async (state, options) => {
    const id = randomUUID()
    state.connection ??= (await Connection.open(options, ['http/1.1'])).read()
    const { connection } = state
    // To say and to hear at once: an answer may come before the request has ended
    const said = say(connection, id, close ? 'Connection: close\r\n' : '', options)
    const { body, last } = await answer(connection)
    await said
    check(body, expected(id, options), options)
    if (connection.bytes.length > 0) throw new Ended('wrong', 'bytes behind the answer')
    if (close || last || connection.end !== undefined) state.over = true
  }
}

const get = (connection, id, header, { query }) =>
  void connection.stream.write(`GET /${id}${query} HTTP/1.1\r\nHost: here\r\n${header}\r\n`)

/** It sends its end with its request, and reads on. */
const halfClosed = (connection, id, header) =>
  void connection.stream.end(`GET /${id} HTTP/1.1\r\nHost: here\r\n${header}\r\n`)

/** Some bytes at a time, and as slowly it reads the answer. */
async function slowly({ stream }, id, header, { pause, size }) {
  stream.on('data', () => {
    stream.pause()
    setTimeout(() => stream.resume(), pause)
  })
  const head = `GET /${id}?size=${size} HTTP/1.1\r\nHost: here\r\n${header}\r\n`
  for (let at = 0; at < head.length; at += 20) {
    stream.write(head.slice(at, at + 20))
    await later(pause)
  }
}

/** In two parts; the first ends within the head. */
async function inParts({ stream }, id, header, { pause }) {
  stream.write(`GET /${id} HT`)
  await later(pause)
  stream.write(`TP/1.1\r\nHost: here\r\n${header}\r\n`)
}

const bytesOf = (id, size) => Buffer.alloc(size, id)
const uploaded = (id, { size }) => `${id} ${size} ${createHash('sha256').update(bytesOf(id, size)).digest('hex')}`

async function upload({ stream }, id, header, { size, pause }) {
  const body = bytesOf(id, size)
  stream.write(`POST /${id} HTTP/1.1\r\nHost: here\r\n${header}Content-Length: ${size}\r\n\r\n`)
  for (let at = 0, step = Math.ceil(size / 3); at < size; at += step) {
    stream.write(body.subarray(at, at + step))
    if (at + step < size) await later(pause)
  }
}

/** A stream of events may be ended early, but it must be ended. */
async function eventStream(state, options) {
  const id = randomUUID()
  const { connection } = (state = { connection: (await Connection.open(options, ['http/1.1'])).read(), owner: state })
  state.owner.connection = connection
  state.owner.over = true
  const { events, pause } = options
  connection.stream.write(
    `GET /${id}?events=${events}&pause=${pause} HTTP/1.1\r\nHost: here\r\nAccept: text/event-stream\r\n\r\n`
  )
  const { head, body } = await answer(connection)
  if (!/^content-type: *text\/event-stream/im.test(head)) throw new Ended('wrong', 'no event stream')
  const told = body.split('\n\n').filter(Boolean)
  if (told.length < 1 || told.length > events) throw new Ended('wrong', `${told.length} events of ${events}`)
  for (const event of told) check(event, `data: ${id}`, options)
}

async function webSocket(state, options) {
  const id = randomUUID()
  const connection = (state.connection = await Connection.open(options, ['http/1.1']))
  state.over = true
  const socket = new WebSocket('ws://here/', { createConnection: () => connection.stream })
  let opened = false
  const talk = new Promise((resolve, reject) => {
    socket.on('error', error => setImmediate(() => reject(connection.end ?? endOf(error))))
    socket.on('open', () => {
      opened = true
      socket.send(id)
    })
    socket.once('message', data => {
      try {
        check(String(data), id, options)
        socket.close(1000)
        resolve(new Promise(done => socket.once('close', done)))
      } catch (error) {
        reject(error)
      }
    })
    // A server that goes away with a close frame has not answered, but says so
    socket.once('close', code =>
      setImmediate(() => reject(code === 1006 ? ended() : new Ended('refused', `close ${code}`)))
    )
  })
  const ended = () =>
    connection.end?.outcome === 'reset' ? connection.end : new Ended('empty', opened ? 'no message' : 'no upgrade')
  await talk
}

async function stream2(state, options) {
  const id = randomUUID()
  if (state.session === undefined) {
    const connection = (state.connection = await Connection.open(options, ['h2']))
    const session = (state.session = http2.connect('http://here', { createConnection: () => connection.stream }))
    session.on('error', () => {})
    session.on('goaway', () => {
      state.over = true
    })
    await new Promise((resolve, reject) => {
      session.once('remoteSettings', resolve)
      session.once('close', () => setImmediate(() => reject(connection.end ?? new Ended('empty', 'no session'))))
    })
  }
  const { session, connection } = state
  if (session.destroyed || session.closed) throw connection.end ?? new Ended('empty', 'session closed')
  const stream = session.request({ ':path': `/${id}` })
  stream.setEncoding('utf8').end()
  let status
  let body = ''
  let whole = false
  stream.on('response', headers => {
    status = headers[':status']
  })
  stream.on('data', part => {
    body += part
  })
  stream.on('end', () => {
    whole = status !== undefined
  })
  let failure
  stream.on('error', error => {
    failure = error
  })
  await new Promise(resolve => stream.once('close', () => setImmediate(resolve)))
  if (stream.rstCode === http2.constants.NGHTTP2_REFUSED_STREAM) throw new Ended('refused', 'REFUSED_STREAM')
  if (!whole || stream.rstCode !== 0) {
    if (connection.end?.outcome === 'reset') throw connection.end
    if (status !== undefined) throw new Ended('wrong', 'cut off')
    throw failure === undefined || stream.rstCode === 8 || stream.rstCode === 0
      ? new Ended('empty', 'no response')
      : new Ended('wrong', failure.code)
  }
  if (status !== 200) throw new Ended('wrong', `status ${status}`)
  check(body, id, options)
  if (session.destroyed || session.closed) state.over = true
}

/** Plain TCP: a line, which comes back. */
async function raw(state, options) {
  const id = randomUUID()
  const connection = (state.connection = (await Connection.open(options)).read())
  state.over = true
  connection.stream.write(`${id}\n`)
  const line = await connection.until(() => {
    const at = connection.bytes.indexOf('\n')
    if (at < 0) cut(connection)
    return at < 0 ? undefined : connection.bytes.toString('latin1', 0, at + 1)
  })
  check(line, `${id}\n`, options)
}

/** A datagram, which comes back. */
async function udp(state, { host, port, localAddress }) {
  const id = randomUUID()
  const socket = createSocket(host.includes(':') ? 'udp6' : 'udp4')
  state.over = true
  state.connection = { opened: Date.now(), destroy: () => socket.close() }
  await new Promise((resolve, reject) => {
    socket.on('error', error => reject(endOf(error)))
    socket.on('message', data => {
      if (String(data) === id) resolve()
      else reject(new Ended('wrong', 'not its own'))
    })
    socket.bind(0, localAddress, () => socket.connect(port, host, () => socket.send(id)))
  })
}

/** What one client does, again and again; `state` lives as long as its connection. */
const KINDS = {
  /** A connection for each request. */
  close: http1(get, { close: true }),
  /** One connection, until the server closes it. */
  keepAlive: http1(get),
  /** A connection for each request, which comes in two parts. */
  parts: http1(inParts, { close: true }),
  upload: http1(upload, { close: true, expected: uploaded }),
  halfClosed: http1(halfClosed, { close: true }),
  slow: http1(slowly, {
    close: true,
    expected: (id, { size }) => id.repeat(Math.ceil(size / id.length)).slice(0, size)
  }),
  events: eventStream,
  webSocket,
  http2: stream2,
  raw,
  udp
}

function count(name, outcome, detail) {
  counts.get(name)[outcome]++
  total[outcome]++
  if (outcome !== 'answered' && (refusals || outcome !== 'refused') && failures.length < mostFailures)
    failures.push({ kind: name, outcome, ...detail })
  while (goals.length > 0 && total[goals[0].of] >= goals[0].at) console.log(goals.shift().line)
}

let clients = 0

async function client({ kind, ...given }) {
  const options = { ...DEFAULTS, ...target, ...given }
  if (from === 'several' && options.host?.startsWith('127.')) options.localAddress = `127.0.1.${(clients++ % 250) + 1}`
  const name = nameOf({ kind, ...given })
  let state = {}
  let used = 0
  const renew = () => {
    state.session?.destroy()
    state.connection?.destroy()
    state = {}
    used = 0
  }
  for (let asked = 0; !ending && asked < options.requests; asked++) {
    // Closed between two requests: that is nobody's failure
    if (used > 0 && (state.over || used >= options.most || state.connection?.end !== undefined)) renew()
    const began = performance.now()
    const own = state
    let timer
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Ended('timedOut')), options.timeout)
    })
    const request = KINDS[kind](own, options)
    request.catch(() => {})
    let outcome = 'answered'
    try {
      await Promise.race([request, late])
      used++
    } catch (error) {
      const end = endOf(error)
      outcome = end.outcome
      const ms = Math.round(performance.now() - began)
      const { port, opened } = own.connection ?? end.connection ?? {}
      count(name, outcome, { code: end.code, at: Date.now(), ms, used, port, opened, address: options.localAddress })
      renew()
    } finally {
      clearTimeout(timer)
    }
    if (outcome === 'answered') count(name, outcome)
    if (outcome === 'refused') await later(REST)
    else if (options.think === 'wake') {
      if (!ending) await woken
      if (outcome === 'answered') idle[state.over || state.connection?.end !== undefined ? 'ended' : 'kept']++
      options.think = 0
      options.requests = asked + 2
    } else if (options.think > 0) await later(options.think * (0.5 + Math.random()))
  }
  renew()
}

for (const { kind } of mix) if (KINDS[kind] === undefined) throw new Error(`there is no kind ${kind}`)
const lines = createInterface(process.stdin)
/** Nobody is left who could end it. */
lines.on('close', () => {
  if (!ending && seconds === undefined && mix.some(({ requests }) => requests === undefined)) process.exit(1)
})
lines.on('line', line => {
  const [word, number = word] = line.split(' ')
  if (word === 'end') {
    ending = true
    wake()
  } else if (word === 'wake') wake()
  else if (word === 'count') {
    console.log(JSON.stringify({ total, failures: failures.slice(counted) }))
    counted = failures.length
  } else {
    const of = word === 'refused' ? 'refused' : 'answered'
    goals.push({ of, at: total[of] + Number(number), line })
  }
})
if (seconds !== undefined)
  setTimeout(() => {
    ending = true
    wake()
  }, seconds * 1000).unref()
await Promise.all(mix.flatMap(one => Array.from({ length: one.clients ?? 1 }, () => client(one))))
const result = JSON.stringify({ total, kinds: Object.fromEntries(counts), failures, idle })
process.stdout.write(`${result}\n`, () => process.exit(0))
