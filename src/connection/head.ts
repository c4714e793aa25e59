/** Puts the bytes that were already read from a connection in front of the socket's own bytes. */
import { Socket } from 'node:net'

/** The socket gives `head` first, and counts it in `bytesRead`. Nothing has been read from it yet. */
export function giveHead(socket: Socket, head: Buffer): void {
  socket.unshift(head)
  Object.defineProperty(socket, 'bytesRead', {
    configurable: true,
    get(this: Socket): number {
      return Reflect.get(Socket.prototype, 'bytesRead', this) + head.length
    }
  })
  guardSession(socket)
}

/**
 * In the tick after 'session' Node's http2 reads what the socket holds, and gives it to its session without a look at whether that was
 * destroyed meanwhile: an uncaught TypeError. So there is nothing to read for a session that is gone. The guard goes with the bytes.
 */
function guardSession(socket: Socket): void {
  const { read } = socket
  const value = function (this: Socket, size?: number): unknown {
    if (hasLostSession(this)) return null
    if (this.readableLength === 0) Reflect.deleteProperty(this, 'read')
    return read.call(this, size)
  }
  Object.defineProperty(socket, 'read', { configurable: true, writable: true, value })
}

/**
 * http2 notes its session in the socket, and leaves the key behind with nothing under it once the session is destroyed. Node 20 to 26
 * forget to import the key, a symbol, so it is 'undefined' (see take-stream.ts).
 */
function hasLostSession(socket: Socket): boolean {
  const keys: (string | symbol)[] = ['undefined']
  keys.push(...Object.getOwnPropertySymbols(socket).filter(({ description }) => description === 'kBoundSession'))
  return keys.some(
    key => Object.hasOwn(socket, key) && (socket as unknown as Record<string | symbol, unknown>)[key] === undefined
  )
}
