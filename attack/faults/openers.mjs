/** Each function that opens something, in one process. Each is a variant: what must be ready, and what may fail. */
import { closeSync, existsSync, openSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import * as datagram from '../../build/dist/datagram/index.js'
import { connect, Descriptor, listen, pair } from '../../build/dist/index.js'
import { MemoryPool, PoolReader, SharedMemory } from '../../build/dist/memory/index.js'
import { readSpec } from '../../build/dist/os/bind-spec.js'
import { Supervisor } from '../../build/dist/prefork/index.js'
import { openListener } from '../../build/dist/prefork/listen/open-listener.js'
import * as streams from '../../build/dist/stream/index.js'
import { NotifySocket } from '../../build/dist/systemd/notify-socket.js'
import { over } from './opened.mjs'

/** Whatever else is open in a round. */
const open = new Set()
const theirs = openSync('/dev/null')

const end = async (type = 'stream') => {
  const [one, other] = Descriptor.socketpair({ type })
  open.add(other)
  return one
}
const pipeEnd = () => {
  const { readable, writable } = Descriptor.pipe()
  open.add(readable)
  return writable
}
const bound = path => Descriptor.bind({ path })
const udp = () => Descriptor.bind({ type: 'udp4', port: 0, address: '127.0.0.1' })
const CLOSES = { exclusive: false, served: false, give: () => {} }
const listener = async (balance, spec) => {
  const made = await openListener('web', readSpec(spec, 'web'), balance, {})
  return { closed: Promise.resolve(), close: () => made.close(CLOSES) }
}
/** Until it has begun to start workers; what it has opened by then is what may fail. */
const supervisor = async options => {
  const made = new Supervisor({ command: ['/bin/true'], workers: 1, ...options })
  let failure
  const starting = made.start().catch(error => {
    failure = error
  })
  await Promise.race([starting, new Promise(done => made.once('state', done))])
  await made.kill()
  await starting
  if (failure.code !== 'ERR_PASSFD_SUPERVISOR_STOPPED') throw failure
}

/** [what is to be ready, what may fail] */
const openersOf = ({ path, raw, packets, target }) => ({
  pair: [undefined, () => pair()],
  listen: [undefined, () => listen(path)],
  'listen abstract': [undefined, () => listen({ abstract: `passfd-${process.pid}` })],
  'listen on a Descriptor': [() => bound(path), given => listen(given)],
  'connect to a Descriptor': [
    end,
    given =>
      connect(given, { handshakeTimeout: 20 }).catch(error =>
        error.code === 'ERR_PASSFD_HANDSHAKE_TIMEOUT' ? undefined : Promise.reject(error)
      )
  ],
  'stream listen': [undefined, () => streams.listen(path)],
  'stream listen on a Descriptor': [() => bound(path), given => streams.listen(given)],
  'stream connect': [undefined, () => streams.connect(raw.address)],
  'stream connect to a Descriptor': [end, given => streams.connect(given)],
  'DescriptorStream.from': [end, given => streams.DescriptorStream.from(given)],
  listenPackets: [undefined, () => streams.listenPackets(path)],
  connectPackets: [undefined, () => streams.connectPackets(packets.address)],
  'PacketSocket.from': [() => end('seqpacket'), given => streams.PacketSocket.from(given)],
  'datagram bind': [undefined, () => datagram.bind({ path })],
  'datagram bind of a random name': [undefined, () => datagram.bind()],
  'datagram bind of a Descriptor': [() => end('dgram'), given => datagram.bind(given)],
  'datagram connect': [undefined, () => datagram.connect(target.address)],
  'datagram connect from': [undefined, () => datagram.connect(target.address, { from: { path } })],
  'datagram unnamed': [undefined, () => datagram.unnamed()],
  'datagram bind with pidfds and an owner': [
    undefined,
    () => datagram.bind({ path }, { pidfd: true, owner: process.getuid(), group: process.getgid() })
  ],
  'datagram unnamed with pidfds': [undefined, () => datagram.unnamed({ pidfd: true })],
  'datagram bind of a Descriptor with pidfds': [() => end('dgram'), given => datagram.bind(given, { pidfd: true })],
  'stream listen with an owner': [undefined, () => streams.listen(path, { owner: process.getuid() })],
  // Its errors are unix-dgram's, whose code is a number
  'datagram createSocket': [
    undefined,
    () => {
      try {
        return datagram.createSocket('unix_dgram')
      } catch (error) {
        throw Object.assign(new Error('createSocket'), { code: `E${-error.errno}`, errno: error.errno })
      }
    }
  ],
  'Descriptor.open': [undefined, () => Descriptor.open('/dev/null')],
  'Descriptor.openSync': [undefined, () => Descriptor.openSync('/dev/null')],
  'Descriptor.from': [undefined, () => Descriptor.from(theirs)],
  'Descriptor.dup': [
    pipeEnd,
    given => {
      given.borrow() // from now on a dup has a number of its own
      return given.dup()
    }
  ],
  'Descriptor.bind path': [undefined, () => bound(path)],
  'Descriptor.bind port': [undefined, () => Descriptor.bind({ port: 0, host: '127.0.0.1' })],
  'Descriptor.bind udp': [undefined, udp],
  'Descriptor.pipe': [undefined, () => Descriptor.pipe()],
  'Descriptor.socketpair': [undefined, () => Descriptor.socketpair()],
  'Descriptor.memfd': [undefined, () => Descriptor.memfd('test', { size: 10, seals: ['shrink'] })],
  'Descriptor.pidfd': [undefined, () => Descriptor.pidfd(process.pid)],
  'Descriptor.adopt': [
    () => openSync('/dev/null'),
    number => {
      try {
        return Descriptor.adopt(number)
      } catch (error) {
        closeSync(number) // the caller's still
        throw error
      }
    }
  ],
  'SharedMemory.create': [undefined, () => SharedMemory.create(4096)],
  MemoryPool: [undefined, () => new MemoryPool({ slots: 2, slotSize: 64 })],
  'PoolReader.open': [
    async () => {
      const pool = new MemoryPool({ slots: 1, slotSize: 64 })
      const loan = (await pool.acquire()).lend({}, 10)
      for (const one of [loan.token, loan.memory, pool]) open.add(one)
      return loan
    },
    loan => {
      const reader = new PoolReader()
      try {
        reader.open(loan)
      } catch (error) {
        if (loan.token.closed || loan.memory.closed) throw new Error('it has not left the loan alone', { cause: error })
        throw error
      } finally {
        reader.close()
      }
      if (!loan.memory.closed) throw new Error('it has kept the memory')
    }
  ],
  'a loan': [
    async () => {
      const pool = new MemoryPool({ slots: 1, slotSize: 64 })
      open.add(pool)
      return pool.acquire()
    },
    slot => Object.values(slot.lend({}, 10))
  ],
  'listener, shared': [undefined, () => listener('shared', { path })],
  'listener, a port for each worker': [undefined, () => listener('per-worker', { port: 0, host: '127.0.0.1' })],
  'listener, dispatched': [undefined, () => listener({ dispatch: 'round-robin' }, { path })],
  'listener, dispatched by first bytes': [
    undefined,
    () => listener({ dispatch: () => 'anybody', maxHead: 10, headTimeout: 10 }, { port: 0, host: '127.0.0.1' })
  ],
  'listener, UDP': [undefined, () => listener('shared', { type: 'udp4', port: 0, address: '127.0.0.1' })],
  NotifySocket: [
    undefined,
    async () => {
      const made = await NotifySocket.open()
      return { closed: Promise.resolve(), close: () => made.close() }
    }
  ],
  Supervisor: [undefined, () => supervisor({ listeners: { web: { path } } })],
  'Supervisor with an admin socket and a port': [
    undefined,
    () => supervisor({ admin: path, listeners: { web: { port: 0, host: '127.0.0.1' } } })
  ],
  toDuplex: [pipeEnd, given => given.toDuplex()],
  toSocket: [end, given => given.toSocket()],
  toServer: [() => bound(path), given => given.toServer()],
  toDatagram: [udp, given => given.toDatagram()]
})

const NONE = { path: '', raw: {}, packets: {}, target: {} }
export const variants = Object.keys(openersOf(NONE))
export const far = () => ({})

export async function near(folder) {
  const path = join(folder, 'socket')
  const raw = await streams.listen(join(folder, 'streams'))
  raw.on('acceptError', () => {})
  raw.on('connection', stream => stream.resume().on('error', () => {}))
  const packets = await streams.listenPackets(join(folder, 'packets'))
  packets.on('acceptError', () => {})
  packets.on('connection', socket => socket.on('message', () => {}))
  const target = await datagram.bind({ path: join(folder, 'datagrams') })
  const openers = openersOf({ path, raw, packets, target })
  let ready
  let made
  let isOpen = false
  const use = async (round, name) => {
    isOpen = false
    await round.attempt(name, async () => {
      made = await openers[name][1](ready)
      isOpen = true
    })
  }
  const clean = async round => {
    if (!isOpen && !(ready instanceof Descriptor) && existsSync(path)) round.problems.push('its socket file is left')
    await over(made)
    made = undefined
    if (ready instanceof Descriptor) ready[Symbol.dispose]()
    ready = undefined
    for (const one of open) one[Symbol.dispose]()
    open.clear()
    rmSync(path, { force: true }) // of a Descriptor, whose file stays
  }
  return {
    async prepare({ variant }) {
      isOpen = true
      if (variant !== undefined) ready = await openers[variant][0]?.()
    },
    async run(round) {
      if (round.variant !== undefined) return use(round, round.variant)
      for (const [name, [prepare]] of Object.entries(openers)) {
        ready = await prepare?.()
        await use(round, name)
        await clean(round)
      }
    },
    check: clean
  }
}
