/**
 * The list that Node keeps of an http.Server's connections, for its time limits and `closeIdleConnections()`. A connection leaves the list when it
 * closes or is upgraded.
 */
import { createServer, Server } from 'node:http'
import type { ObservedSocket } from './http-connection.ts'

interface Parser {
  readonly socket?: ObservedSocket | null
}
export interface NodeConnections {
  all(): readonly Parser[]
  /** Those whose parser has got no byte since the last request. */
  idle(): readonly Parser[]
}

/** Node's own listener for 'connection', or null if this Node keeps no list that passfd can read. */
let nodesListener: unknown

/** Whether Node puts the connections of the server in its list. False if the program has taken Node's listener away. */
export function areListed(server: object): server is Server {
  if (!(server instanceof Server)) return false
  if (nodesListener === undefined) nodesListener = find() ?? null
  return nodesListener !== null && server.listeners('connection').includes(nodesListener as () => void)
}

/** Whether this is the listener by which Node puts connections in its list. */
export function isNodesListener(listener: unknown): boolean {
  return listener === nodesListener
}

/** Returns Node's list; undefined before the server has listened. */
export function nodeConnections(server: object): NodeConnections | undefined {
  const key = Object.getOwnPropertySymbols(server).find(({ description }) => description === 'http.server.connections')
  return key === undefined ? undefined : (server as Record<symbol, NodeConnections>)[key]
}

/** Returns the sockets of a list's parsers. */
export function socketsOf(parsers: readonly Parser[] = []): ObservedSocket[] {
  return parsers.flatMap(({ socket }) => socket ?? [])
}

/** Asks a server that never listens. */
function find(): unknown {
  const probe = createServer()
  probe.emit('listening') // then Node makes the list
  const { all, idle } = nodeConnections(probe) ?? {}
  probe.close()
  return typeof all === 'function' && typeof idle === 'function' ? probe.listeners('connection')[0] : undefined
}
