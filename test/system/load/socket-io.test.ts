/** socket.io with long polling behind several workers: the example. */
import { once } from 'node:events'
import * as http from 'node:http'
import { io, type Socket } from 'socket.io-client'
import { times } from '../../helpers/full.ts'
import { freePort } from '../../helpers/port.ts'
import { start } from '../../helpers/process.ts'
import { example } from '../../helpers/programs.ts'
import { testInCi, until } from '../../helpers/test.ts'

interface Place {
  slot: number
  pid: number
}

interface Client {
  socket: Socket
  /** What it was told by anybody. */
  heard: string[]
  failures: string[]
}

/** Two show what more do, and socket.io takes long to load. */
const WORKERS = times(2, 4)
const SLOTS = [...Array(WORKERS).keys()]
const EACH = times(4, 12)

function client(url: string, transports: string[]): Client {
  const socket = io(url, { transports, forceNew: true, reconnectionDelay: 20, reconnectionDelayMax: 100 })
  const heard: string[] = []
  const failures: string[] = []
  socket.on('said', words => void heard.push(words))
  socket.on('connect_error', error => void failures.push(error.message))
  socket.on('disconnect', reason => void failures.push(reason))
  return { socket, heard, failures }
}

function where({ socket }: Client): Promise<Place> {
  return socket.timeout(10_000).emitWithAck('where')
}

/** Begins a session of Engine.IO 4 without a client, or says in one that it joins the default namespace. */
async function poll(agent: http.Agent, port: number, id?: string): Promise<{ status?: number; text: string }> {
  const path = `/socket.io/?EIO=4&transport=polling${id === undefined ? '' : `&sid=${id}`}`
  const method = id === undefined ? 'GET' : 'POST'
  const request = http.request({ host: '127.0.0.1', port, path, method, agent })
  request.end(id === undefined ? undefined : '40')
  const [response] = (await once(request, 'response')) as [http.IncomingMessage]
  let text = ''
  for await (const part of response.setEncoding('utf8')) text += part
  return { ...(response.statusCode === undefined ? {} : { status: response.statusCode }), text }
}

testInCi('sessions stay with their workers, polling or not; what one hears all hear; a reload is survived', async t => {
  const port = await freePort()
  const running = start(process.execPath, [example('socket.io-sticky'), `${port}`, `${WORKERS}`])
  for (const _ of SLOTS) t.regex(await running.line(), /^slot \d: process \d+ serves$/)

  // Those that begin to poll and then upgrade; those that always poll; those that never do
  const kinds = [['polling', 'websocket'], ['polling'], ['websocket']]
  const clients = kinds.flatMap(kind => Array.from({ length: EACH }, () => client(`http://127.0.0.1:${port}`, kind)))
  const connected = (): boolean => clients.every(({ socket }) => socket.connected)
  await until(connected, 'all are connected')
  const first = await Promise.all(clients.map(where))
  t.deepEqual([...new Set(first.map(({ slot }) => slot))].toSorted(), SLOTS)
  await until(
    () => clients.slice(0, EACH).every(({ socket }) => socket.io.engine.transport.name === 'websocket'),
    'those that may have upgraded'
  )
  for (let i = 0; i < 5; i++) t.deepEqual(await Promise.all(clients.map(where)), first)
  const said = async (words: string): Promise<void> => {
    clients[EACH]!.socket.emit('say', words)
    await until(() => clients.every(({ heard }) => heard.includes(words)), `all have heard: ${words}`)
  }
  await said('hello')
  t.deepEqual(
    clients.flatMap(({ failures }) => failures),
    []
  )

  // As a browser does: one connection at a time, to be kept, and several sessions
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  const sessions = new Set<string>()
  const slots = (): number => new Set([...sessions].map(id => id.split('.')[0])).size
  while (slots() < WORKERS && sessions.size < 50) {
    const { status, text } = await poll(agent, port)
    t.is(status, 200)
    sessions.add(JSON.parse(text.slice(1)).sid)
  }
  t.is(slots(), WORKERS)
  for (const id of sessions) t.deepEqual(await poll(agent, port, id), { status: 200, text: 'ok' })
  agent.destroy()

  const pids = new Set(first.map(({ pid }) => pid))
  running.child.kill('SIGHUP')
  for (const _ of SLOTS) await running.line()
  let second: Place[] = []
  for (let moved = false; !moved; ) {
    await until(connected, 'all are connected again')
    second = await Promise.all(clients.map(one => where(one).catch(() => ({ slot: -1, pid: 0 }))))
    moved = second.every(({ pid }) => pid > 0 && !pids.has(pid))
  }
  t.is(new Set(second.map(({ pid }) => pid)).size, WORKERS)
  await said('hello again')
  for (const { heard } of clients) t.deepEqual(heard, ['hello', 'hello again'])

  for (const { socket } of clients) socket.disconnect()
  running.child.kill('SIGTERM')
  t.deepEqual(await running.exit, { code: 0, signal: null, stderr: '' })
})
