/** Ready-made routes: `--sticky`, which keeps a client at one worker. */
import type { Dispatch, Route, Routed, WorkerInfo } from '../../prefork/index.ts'

/** Limits the wait for the first request, in ms: a client of another protocol may wait for the server. */
const HEAD_TIMEOUT = 1000
/** Names of the session's cookie, if none is given: of express-session, @fastify/session, koa-session, and others. */
const SESSION_COOKIES = ['connect.sid', 'sessionId', 'koa.sess', 'session', 'sid']
/** The sessions of socket.io whose slot is remembered. */
const MOST_SESSIONS = 65_536

/**
 * The balance for a rule; undefined for an unknown one. The supervisor asks the route for the first request of a connection only. Later requests of
 * a keep-alive connection go to the same worker, whatever they contain.
 *
 * - `address`: by the client's IP address. So all requests of an address reach the same slot, as long as the number of workers stays.
 * - `cookie=NAME`, `cookie`: by the value of that cookie, or of a usual session cookie. A request without one goes to the next worker in turn. So
 *   the worker that sets a cookie is not the one that gets it: a program must keep what belongs to it outside of the worker until the next request,
 *   or can only cache it.
 * - `socket.io`: by address, so a session's requests reach the worker that has opened it. A session that was seen once stays with its slot when its
 *   client's address or the number of workers changes. The server needs no change.
 *
 * If the client is a proxy of this host (a loopback address or a Unix socket), its `X-Forwarded-For` or `Forwarded` names the address. Such a
 * proxy must not send requests of several clients on one connection. With TLS in the workers the supervisor can't read a request: then
 * `cookie` distributes in turn, and the others choose by the connection's address.
 */
export function stickyBalance(rule: string): Dispatch | undefined {
  const route = routeOf(rule)
  return route === undefined ? undefined : { dispatch: route, headTimeout: HEAD_TIMEOUT }
}

function routeOf(rule: string): Route | undefined {
  if (rule === 'address') return byAddress
  if (rule === 'socket.io') return bySession()
  const [, , name] = /^cookie(=([^\s=;,]+))?$/.exec(rule) ?? ([] as string[])
  return rule.startsWith('cookie') && (rule === 'cookie' || name !== undefined)
    ? byCookie(name === undefined ? SESSION_COOKIES : [name])
    : undefined
}

const byAddress: Route = (connection, workers) => {
  if (connection.remoteAddress !== undefined && !isLoopback(connection.remoteAddress))
    return slotFor(connection.remoteAddress, workers)
  const head = headOf(connection)
  return head === 'more' ? head : slotFor(addressOf(connection, head), workers)
}

function byCookie(names: readonly string[]): Route {
  return (connection, workers) => {
    const head = headOf(connection)
    if (head === 'more') return head
    const cookies = new Map(head === undefined ? [] : cookiesOf(head))
    const name = names.find(each => cookies.has(each))
    return name === undefined ? undefined : slotFor(cookies.get(name), workers)
  }
}

/** Of socket.io, whose server chooses the session's id, and whose client sends it in each later request: `/socket.io/?EIO=4&…&sid=…`. */
function bySession(): Route {
  const slots = new Map<string, number>()
  return (connection, workers) => {
    const head = headOf(connection)
    if (head === 'more') return head
    const [target = ''] = /(?<=^[A-Z]+ )\S+/.exec(head ?? '') ?? []
    const [, id] = (/[?&]EIO=/.test(target) && /[?&]sid=([^&#]+)/.exec(target)) || []
    const known = id === undefined ? undefined : slots.get(id)
    const slot = known ?? slotFor(addressOf(connection, head), workers)
    if (id === undefined || slot === undefined) return slot
    slots.delete(id) // the oldest stands first
    slots.set(id, slot)
    if (slots.size > MOST_SESSIONS) slots.delete(slots.keys().next().value!)
    return slot
  }
}

/** The lines of the first request. Undefined: it is no HTTP request that can be read. `'more'`: its end is not there yet. */
function headOf({ head, ended }: Routed): string | 'more' | undefined {
  const end = head.indexOf('\r\n\r\n')
  if (end >= 0) return head.toString('latin1', 0, end)
  if (ended) return undefined
  // A request begins with its method. TLS, and other protocols, do not
  return /^[A-Z]*( |$)/.test(head.toString('latin1', 0, 32)) ? 'more' : undefined
}

function* cookiesOf(head: string): Generator<[name: string, value: string]> {
  for (const line of headersOf(head, 'cookie'))
    for (const pair of line.split(';')) {
      const at = pair.indexOf('=')
      if (at > 0) yield [pair.slice(0, at).trim(), pair.slice(at + 1).trim()]
    }
}

function headersOf(head: string, name: string): string[] {
  const lines = head.split('\r\n').slice(1)
  return lines
    .filter(line => line.slice(0, name.length + 1).toLowerCase() === `${name}:`)
    .map(line => line.slice(name.length + 1).trim())
}

/** The client's address. Behind a proxy of this host: as the proxy says. */
function addressOf({ remoteAddress }: Routed, head: string | undefined): string | undefined {
  if (head === undefined || (remoteAddress !== undefined && !isLoopback(remoteAddress))) return remoteAddress
  const [forwarded] = headersOf(head, 'x-forwarded-for')
  if (forwarded !== undefined) return forwarded.split(',')[0]!.trim()
  const [, standard] = /\bfor="?(\[[^\]]*\]|[^;,"\s]+)/i.exec(headersOf(head, 'forwarded')[0] ?? '') ?? []
  return standard ?? remoteAddress
}

function isLoopback(address: string): boolean {
  return address.startsWith('127.') || address === '::1'
}

/**
 * The slot with the highest hash of key and slot (rendezvous hashing). So if a slot comes or goes, only the keys of that slot move. Undefined
 * without a key or a worker.
 */
export function slotFor(key: string | undefined, workers: readonly Pick<WorkerInfo, 'slot'>[]): number | undefined {
  if (key === undefined) return undefined
  const seed = hash(key)
  let best: number | undefined
  let most = -1
  for (const { slot } of workers) {
    const weight = mix(seed ^ Math.imul(slot + 1, 0x9e3779b1))
    if (weight <= most) continue
    most = weight
    best = slot
  }
  return best
}

/** FNV-1a. */
function hash(text: string): number {
  let value = 0x811c9dc5
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193)
  return value >>> 0
}

/** The last step of MurmurHash3, which spreads close numbers. */
function mix(value: number): number {
  value = Math.imul(value ^ (value >>> 16), 0x85ebca6b)
  value = Math.imul(value ^ (value >>> 13), 0xc2b2ae35)
  return (value ^ (value >>> 16)) >>> 0
}
