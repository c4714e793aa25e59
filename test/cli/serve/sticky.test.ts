/** The routes of `--sticky`. */
import type { AddressInfo } from 'node:net'
import fc from 'fast-check'
import { io } from 'socket.io-client'
import { slotFor, stickyBalance } from '../../../src/cli/serve/sticky.ts'
import type { Route, Routed, WorkerInfo } from '../../../src/prefork/index.ts'
import { program, supervising } from '../../helpers/supervising.ts'
import { test, testInCi } from '../../helpers/test.ts'

const slots = (count: number) => Array.from({ length: count }, (_, slot) => ({ slot }) as WorkerInfo)

function route(rule: string): Route {
  const { dispatch } = stickyBalance(rule)!
  return dispatch as Route
}

function from(head: string | Buffer, remoteAddress?: string, ended = false): Routed {
  const asked = { listener: 'http', head: Buffer.from(head as string), ended }
  return remoteAddress === undefined ? asked : { ...asked, remoteAddress }
}

function request(target: string, headers: Record<string, string> = {}): string {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
  return `GET ${target} HTTP/1.1\r\nHost: a\r\n${lines.join('')}\r\n`
}

test('rules', t => {
  for (const rule of ['address', 'cookie', 'cookie=sid', 'socket.io']) t.truthy(stickyBalance(rule), rule)
  for (const rule of ['', 'cookie=', 'cookie=a b', 'cookies', 'socketio', 'Address'])
    t.is(stickyBalance(rule), undefined, rule)
})

test('a slot that comes or goes moves only its own keys, and all slots get keys', t => {
  const keys = Array.from({ length: 1000 }, (_, index) => `10.0.${index >> 8}.${index & 255}`)
  const at = (count: number) => keys.map(key => slotFor(key, slots(count)))
  const [four, five] = [at(4), at(5)]
  for (const [index, slot] of five.entries()) t.true(slot === four[index] || slot === 4)
  for (let slot = 0; slot < 4; slot++) t.true(four.filter(each => each === slot).length > 150)
  t.is(slotFor('a', []), undefined)
  t.is(slotFor(undefined, slots(2)), undefined)
  fc.assert(
    fc.property(fc.string(), fc.shuffledSubarray([0, 1, 2, 3, 4, 5], { minLength: 1 }), (key, present) => {
      const workers = present.map(slot => ({ slot }))
      return slotFor(key, workers) === slotFor(key, workers.toReversed())
    })
  )
})

test('address: by the connection, without a look at its bytes; of a proxy of this host by its header', t => {
  const address = route('address')
  const workers = slots(8)
  t.is(address(from('', '10.0.0.1'), workers), slotFor('10.0.0.1', workers))
  t.is(address(from(request('/', { 'X-Forwarded-For': '1.2.3.4' }), '10.0.0.1'), workers), slotFor('10.0.0.1', workers))
  for (const proxy of ['127.0.0.1', '::1', undefined]) {
    t.is(address(from('GET / HT', proxy), workers), 'more')
    t.is(address(from('', proxy), workers), 'more')
    for (const headers of [
      { 'X-Forwarded-For': '1.2.3.4, 10.0.0.1' },
      { 'x-forwarded-for': '1.2.3.4' },
      { Forwarded: 'proto=http;for=1.2.3.4, for=10.0.0.1' },
      { forwarded: 'For="1.2.3.4"' }
    ] as Record<string, string>[])
      t.is(address(from(request('/', headers), proxy), workers), slotFor('1.2.3.4', workers), JSON.stringify(headers))
    t.is(address(from(request('/'), proxy), workers), slotFor(proxy, workers))
    // TLS, and another protocol: at once
    t.is(address(from(Buffer.from([0x16, 3, 1]), proxy), workers), slotFor(proxy, workers))
    t.is(address(from('ssh-2.0', proxy), workers), slotFor(proxy, workers))
    t.is(address(from('GET', proxy, true), workers), slotFor(proxy, workers))
  }
})

test('cookie: by its value; without it in turn', t => {
  const workers = slots(8)
  const cookie = (header: string, rule = 'cookie=id') =>
    route(rule)(from(request('/', { Cookie: header }), '10.0.0.1'), workers)
  t.is(cookie('id=abc'), slotFor('abc', workers))
  t.is(cookie('a=1; id=abc;b=2'), slotFor('abc', workers))
  t.is(cookie('xid=abc'), undefined)
  t.is(cookie('ID=abc'), undefined)
  t.is(cookie('connect.sid=s%3Aabc', 'cookie'), slotFor('s%3Aabc', workers))
  t.is(cookie('other=abc', 'cookie'), undefined)
  t.is(route('cookie=id')(from(request('/')), workers), undefined)
  t.is(route('cookie=id')(from('GET / HTTP/1.1\r\nCookie: id=a'), workers), 'more')
  t.is(route('cookie=id')(from('GET / HTTP/1.1\r\nCookie: id=a', undefined, true), workers), undefined)
  t.is(route('cookie=id')(from(Buffer.from([0x16, 3, 1])), workers), undefined)
})

test('socket.io: by address; a session that was seen once stays, though its address or the workers change', t => {
  const socketIo = route('socket.io')
  const workers = slots(8)
  const poll = (sid: string) => request(`/socket.io/?EIO=4&transport=polling&t=a1&sid=${sid}`)
  const home = slotFor('10.0.0.1', workers)!
  const elsewhere = ['10.0.0.2', '10.0.0.3', '10.0.0.4'].find(address => slotFor(address, workers) !== home)!
  t.is(socketIo(from(request('/socket.io/?EIO=4&transport=polling'), '10.0.0.1'), workers), home)
  t.is(socketIo(from(poll('one'), '10.0.0.1'), workers), home)
  t.is(socketIo(from(poll('one'), elsewhere), workers), home)
  t.is(socketIo(from(poll('one'), elsewhere), slots(20)), home)
  t.is(socketIo(from(poll('two'), elsewhere), workers), slotFor(elsewhere, workers))
  // Of another program
  t.is(socketIo(from(request('/?sid=one'), elsewhere), workers), slotFor(elsewhere, workers))
  // It remembers the last ones
  for (let count = 0; count < 65_536; count++) socketIo(from(poll(`x${count}`), '10.0.0.1'), workers)
  t.is(socketIo(from(poll('one'), elsewhere), workers), slotFor(elsewhere, workers))
})

testInCi('an unmodified socket.io server with long polling', async t => {
  const packageUrl = new URL('../../../node_modules/socket.io/dist/index.js', import.meta.url).href
  const source = `import { createServer } from 'node:http'
    import { Server } from ${JSON.stringify(packageUrl)}
    const server = createServer()
    new Server(server).on('connection', socket => socket.on('who', answer => answer(process.pid)))
    server.listen(0, '127.0.0.1')`
  const options = {
    program: [process.execPath, program(source)],
    listeners: {},
    workers: 3,
    balance: stickyBalance('socket.io')!
  } as const
  await supervising(t, options, async supervisor => {
    await supervisor.start()
    const { port } = Object.values(supervisor.addresses)[0] as AddressInfo
    const pids = new Set<number>()
    for (let client = 0; client < 8; client++) {
      const socket = io(`http://127.0.0.1:${port}`, {
        transports: ['polling'],
        forceNew: true,
        reconnection: false,
        extraHeaders: { 'X-Forwarded-For': `10.0.0.${client}` }
      })
      const failed = new Promise<never>((_, reject) => {
        socket.on('connect_error', reject).on('disconnect', reason => reject(new Error(reason)))
      })
      const own = new Set<number>()
      for (let count = 0; count < 5; count++) own.add(await Promise.race([socket.emitWithAck('who'), failed]))
      failed.catch(() => {})
      socket.off('disconnect').close()
      t.is(own.size, 1)
      for (const pid of own) pids.add(pid)
    }
    t.true(pids.size > 1)
  })
})
