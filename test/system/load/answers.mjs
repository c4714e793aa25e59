// Servers that answer every kind of client.mjs, as its `expect: 'echo'` wants it; `ending` aborts: event streams end
import { createHash } from 'node:crypto'
import * as http from 'node:http'
import * as http2 from 'node:http2'
import * as https from 'node:https'
import { createRequire } from 'node:module'
import * as net from 'node:net'

const require = createRequire(import.meta.url)
const psk = Buffer.alloc(16, 'known')
const KEY = { ciphers: 'PSK', maxVersion: 'TLSv1.2', pskCallback: () => psk, pskIdentityHint: 'passfd' }

function handler(ending) {
  return (request, response) => {
    const { pathname, searchParams } = new URL(request.url, 'http://here')
    const id = pathname.slice(1)
    if (searchParams.has('events')) return tell(response, id, searchParams, ending)
    if (searchParams.has('size'))
      return response.end(
        id.repeat(Number(searchParams.get('size')) / id.length + 1).slice(0, Number(searchParams.get('size')))
      )
    if (request.method !== 'POST') return response.end(id)
    const hash = createHash('sha256')
    let size = 0
    request.on('data', part => {
      hash.update(part)
      size += part.length
    })
    request.on('end', () => response.end(`${id} ${size} ${hash.digest('hex')}`))
  }
}

function tell(response, id, searchParams, ending) {
  let left = Number(searchParams.get('events'))
  response.writeHead(200, { 'Content-Type': 'text/event-stream' })
  const next = () => {
    response.write(`data: ${id}\n\n`)
    if (--left === 0 || ending?.aborted) response.end()
    else setTimeout(next, Number(searchParams.get('pause')))
  }
  next()
}

/** `kind`: 'http', 'https', 'http2', 'http2s' or 'raw'. WebSockets come to http and https. */
export function serverOf(kind, ending) {
  if (kind === 'raw') return net.createServer({ allowHalfOpen: true }, echo)
  if (kind === 'http2') return http2.createServer(handler(ending))
  if (kind === 'http2s') return http2.createSecureServer(KEY, handler(ending))
  const server = kind === 'https' ? https.createServer(KEY, handler(ending)) : http.createServer(handler(ending))
  let sockets
  server.on('upgrade', (request, socket, head) => {
    // Loading it costs as much as to start Node, and few servers need it
    sockets ??= new (require('ws').WebSocketServer)({ noServer: true })
    sockets.handleUpgrade(request, socket, head, client => {
      client.on('error', () => {})
      client.on('message', data => client.send(String(data)))
    })
  })
  return server
}

function echo(socket) {
  socket.on('error', () => {})
  let text = ''
  socket.on('data', part => {
    text += part
    if (text.endsWith('\n')) socket.end(text)
  })
  socket.on('end', () => socket.end())
}
