/** Clients of a WebSocket server and of socket.io: they connect again when they are cut off, and count what has happened. */
import { setTimeout as later } from 'node:timers/promises'
import { WebSocket } from 'ws'

const CLIENTS = 4

/** `ws`: echoes of plain WebSockets. */
export class WebSocketLoad {
  #port
  #stopped = false
  #loops = []
  counts = { opened: 0, echoes: 0, unanswered: 0, closed: {}, failed: {} }

  constructor(port) {
    this.#port = port
  }

  start() {
    for (let client = 0; client < CLIENTS; client++) this.#loops.push(this.#run())
  }

  async stop() {
    this.#stopped = true
    await Promise.all(this.#loops)
  }

  async #run() {
    const { counts } = this
    while (!this.#stopped) {
      const socket = new WebSocket(`ws://127.0.0.1:${this.#port}/`)
      let pending = 0
      let opened = false
      const send = () => {
        if (this.#stopped) socket.close()
        if (socket.readyState !== WebSocket.OPEN) return
        pending++
        socket.send('hello')
      }
      socket.on('open', () => {
        opened = true
        counts.opened++
        send()
      })
      socket.on('message', () => {
        pending--
        counts.echoes++
        setTimeout(send, 20)
      })
      socket.on('error', error =>
        bump(counts.failed, `${opened ? 'open' : 'connecting'}: ${error.code ?? error.message}`)
      )
      const code = await new Promise(resolve => socket.on('close', resolve))
      bump(counts.closed, code)
      counts.unanswered += pending
      await later(20)
    }
  }
}

/** socket.io: half of the clients begin by long polling. */
export class SocketIoLoad {
  #port
  #sockets = []
  counts = { connected: 0, answers: 0, disconnected: {}, failed: {} }

  constructor(port) {
    this.#port = port
  }

  async start() {
    const { io } = await import('socket.io-client')
    const { counts } = this
    for (let client = 0; client < CLIENTS; client++) {
      const transports = client % 2 === 0 ? ['polling', 'websocket'] : ['websocket']
      const socket = io(`http://127.0.0.1:${this.#port}`, {
        transports,
        forceNew: true,
        reconnectionDelay: 50,
        reconnectionDelayMax: 200
      })
      const ask = () => {
        if (!socket.connected) return
        socket.timeout(5_000).emit('echo', 'hello', error => {
          if (error === null) counts.answers++
          setTimeout(ask, 30)
        })
      }
      socket.on('connect', () => {
        counts.connected++
        ask()
      })
      socket.on('disconnect', reason => bump(counts.disconnected, reason))
      socket.on('connect_error', error =>
        bump(counts.failed, `${transports[0]}: ${error.message} ${error.context?.responseText ?? ''}`.trim())
      )
      this.#sockets.push(socket)
    }
  }

  async stop() {
    for (const socket of this.#sockets) socket.disconnect()
  }
}

function bump(counts, key) {
  counts[key] = (counts[key] ?? 0) + 1
}
