/** Each function of the shim by itself, in one process. Each is a variant: what must be ready, and the calls that may fail. */
import { closeSync, openSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import net from 'node:net'
import { constants, networkInterfaces } from 'node:os'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { native } from '../../build/dist/os/native.js'

const STREAM = 1
const DATAGRAM = 2
const PACKETS = 5
const NAMES = new Map(Object.entries(constants.errno).map(([name, number]) => [-number, name])).set(
  -constants.errno.EAGAIN,
  'EAGAIN'
)
const { module: openpty } = createRequire(import.meta.url)('node-pty/lib/utils.js').loadNativeModule('pty')

/** The numbers that a variant has opened. */
const opened = []

/** What the shim's function has returned; an error if that is one. `tolerated` are answers, not failures. */
function sure(what, result, tolerated = []) {
  if (result >= 0 || tolerated.includes(NAMES.get(result))) return result
  throw Object.assign(new Error(`${what}: ${NAMES.get(result) ?? result}`), {
    code: NAMES.get(result) ?? `E${-result}`,
    errno: result
  })
}

function open(what, fd) {
  opened.push(sure(what, fd))
  return fd
}

function ends(what, out, result) {
  sure(what, result)
  opened.push(out[0], out[1])
  return [out[0], out[1]]
}

const socketpair = type => {
  const out = new Int32Array(2)
  return ends('socketpair', out, native.socketpair(type, out))
}
const pipe = () => {
  const out = new Int32Array(2)
  return ends('pipe', out, native.pipe(out))
}
const nameOf = path => Buffer.from(path)
const file = (path = '/dev/null', flags = 'r') => open('hold', held(openSync(path, flags)))
const held = fd => {
  const result = native.hold(fd)
  if (result < 0) closeSync(fd)
  return result < 0 ? result : fd
}
const tcp = () => open('bindInet', native.bindInet(false, '127.0.0.1', 0, 5, 0))
const portOf = fd => {
  const out = new Int32Array(2)
  sure('inetName', native.inetName(fd, false, out, Buffer.alloc(64)))
  return out[1]
}
/** A listener, and as many clients as are connected to it; Node's sockets. */
const listening = async (count = 1) => {
  const listener = tcp()
  const clients = []
  for (let at = 0; at < count; at++) {
    const client = net.connect(portOf(listener), '127.0.0.1').on('error', () => {})
    await new Promise(resolve => client.once('connect', resolve))
    clients.push(client)
  }
  return { listener, over: () => Promise.all(clients.map(client => ended(client))) }
}
const ended = socket =>
  new Promise(resolve => {
    socket.once('close', resolve).destroy()
  })
/** An address of this machine that is only valid on one link, if it has one: 'fe80::1%eth0'. */
const linkLocal = () => {
  for (const [name, addresses] of Object.entries(networkInterfaces()))
    for (const { address } of addresses) if (address.startsWith('fe80::')) return `${address}%${name}`
  return undefined
}
const terminal = () => {
  const { master, slave } = openpty.open(80, 24)
  for (const side of [master, slave]) {
    open('hold', held(side))
    native.nonblocking(side, false)
  }
  return { master, slave }
}
/** ENXIO: what it has opened can't be told to be the same. */
const reopen = fd => {
  const own = sure('reopen', native.reopen(fd), ['ENXIO'])
  if (own > 0) opened.push(own)
}
const results = () => new Int32Array(600)
const NO_FDS = new Int32Array(0)

/** By name: [what is ready, what may fail]. `folder` is for sockets. */
const functionsOf = folder => {
  const path = join(folder, 'name')
  const bound = type => {
    const fd = open('socket', native.socket(type))
    sure('bind', native.bind(fd, nameOf(path), 0o600))
    return fd
  }
  const unixListener = () => {
    const fd = bound(STREAM)
    sure('listen', native.listen(fd, 5))
    return fd
  }
  const waiting = () => {
    const listener = unixListener()
    const client = open('socket', native.socket(STREAM))
    sure('connect', native.connect(client, nameOf(path)))
    return listener
  }
  return {
    socketpair: [undefined, () => socketpair(STREAM)],
    pipe: [undefined, pipe],
    socket: [undefined, () => open('socket', native.socket(STREAM))],
    bind: [() => open('socket', native.socket(STREAM)), fd => sure('bind', native.bind(fd, nameOf(path), 0o600))],
    'bind, an abstract name': [
      () => open('socket', native.socket(STREAM)),
      fd => sure('bind', native.bind(fd, nameOf(`\0passfd-${process.pid}`), -1))
    ],
    listen: [() => bound(STREAM), fd => sure('listen', native.listen(fd, 5))],
    connect: [
      () => {
        unixListener()
        return open('socket', native.socket(STREAM))
      },
      fd => sure('connect', native.connect(fd, nameOf(path)))
    ],
    accept: [waiting, fd => open('accept', native.accept(fd))],
    'accept of a blocking listener': [
      () => {
        const fd = waiting()
        sure('nonblocking', native.nonblocking(fd, false))
        return fd
      },
      fd => open('accept', native.accept(fd))
    ],
    acceptMany: [
      () => listening(3),
      ({ listener }) => {
        const fds = new Int32Array(8)
        const count = sure('acceptMany', native.acceptMany(listener, fds, 8, Buffer.alloc(8 * 64)))
        opened.push(...fds.subarray(0, count))
      }
    ],
    'acceptMany of a blocking listener': [
      async () => {
        const made = await listening(2)
        sure('nonblocking', native.nonblocking(made.listener, false))
        return made
      },
      ({ listener }) => {
        const fds = new Int32Array(8)
        const count = sure('acceptMany', native.acceptMany(listener, fds, 8, null))
        opened.push(...fds.subarray(0, count))
      }
    ],
    'acceptMany of one link': [
      async () => {
        const link = linkLocal()
        if (link === undefined) return undefined
        const listener = open('bindInet', native.bindInet(false, link, 0, 5, 1))
        const client = net.connect(portOf(listener), link).on('error', () => {})
        await new Promise(resolve => client.once('connect', resolve))
        return { listener, over: () => ended(client) }
      },
      made => {
        if (made === undefined) return
        portOf(made.listener)
        const fds = new Int32Array(8)
        const count = sure('acceptMany', native.acceptMany(made.listener, fds, 8, Buffer.alloc(8 * 64)))
        opened.push(...fds.subarray(0, count))
      }
    ],
    'acceptMany of IPv6': [
      async () => {
        const listener = open('bindInet', native.bindInet(false, '::1', 0, 5, 1))
        const client = net.connect(portOf(listener), '::1').on('error', () => {})
        await new Promise(resolve => client.once('connect', resolve))
        return { listener, over: () => ended(client) }
      },
      ({ listener }) => {
        const fds = new Int32Array(8)
        const count = sure('acceptMany', native.acceptMany(listener, fds, 8, Buffer.alloc(8 * 64)))
        opened.push(...fds.subarray(0, count))
      }
    ],
    'bindInet, TCP': [undefined, tcp],
    'bindInet, IPv6 and a shared port': [undefined, () => open('bindInet', native.bindInet(false, '::1', 0, 5, 3))],
    'bindInet, a port shared later': [undefined, () => open('bindInet', native.bindInet(false, '127.0.0.1', 0, 5, 4))],
    'bindInet, UDP': [undefined, () => open('bindInet', native.bindInet(true, '127.0.0.1', 0, 0, 2))],
    'bindInet, an interface': [
      undefined,
      () => sure('bindInet', native.bindInet(true, 'fe80::1%lo', 0, 0, 0), ['EADDRNOTAVAIL'])
    ],
    sharePort: [tcp, fd => sure('sharePort', native.sharePort(fd))],
    'closeQueue, TCP': [tcp, fd => sure('closeQueue', native.closeQueue(fd))],
    'closeQueue, Unix': [unixListener, fd => sure('closeQueue', native.closeQueue(fd))],
    diagnosis: [undefined, () => open('diagnosis', native.diagnosis())],
    handshakes: [tcp, fd => sure('handshakes', native.handshakes(fd))],
    'queued, TCP': [() => listening(2), ({ listener }) => sure('queued', native.queued(listener), ['EAGAIN'])],
    'queued, Unix': [waiting, fd => sure('queued', native.queued(fd), ['EAGAIN'])],
    quiet: [
      () => listening(1),
      ({ listener }) => {
        const fd = open('accept', native.accept(listener))
        sure('quiet', native.quiet(fd))
      }
    ],
    pidfd: [undefined, () => open('pidfd', native.pidfd(process.pid))],
    peerPidfd: [() => socketpair(STREAM), ([fd]) => open('peerPidfd', native.peerPidfd(fd))],
    memfd: [undefined, () => open('memfd', native.memfd('attack', 4096))],
    hold: [
      undefined,
      () => {
        const fd = openSync('/dev/null')
        open('hold', held(fd))
      }
    ],
    'hold of a high number': [
      () => {
        const numbers = []
        while ((numbers.at(-1) ?? 0) < 300) numbers.push(openSync('/dev/null'))
        return { fd: numbers.pop(), over: () => numbers.map(fd => closeSync(fd)) }
      },
      ({ fd }) => open('hold', held(fd))
    ],
    release: [
      file,
      fd => {
        sure('release', native.release(fd))
        opened.splice(opened.indexOf(fd), 1)
        closeSync(fd)
      }
    ],
    close: [
      file,
      fd => {
        opened.splice(opened.indexOf(fd), 1)
        sure('close', native.close(fd))
      }
    ],
    closeMany: [
      () => [file(), file(), ...pipe()],
      fds => {
        opened.splice(0)
        sure('closeMany', native.closeMany(Int32Array.from(fds), 0, fds.length))
      }
    ],
    closeLater: [
      () => [file(), file(), ...pipe()],
      fds => {
        sure('closeLater', native.closeLater(Int32Array.from(fds), 0, fds.length, 0))
        opened.splice(0)
      }
    ],
    dup: [file, fd => open('dup', native.dup(fd))],
    'share and separate': [
      file,
      fd => {
        opened.push(sure('share', native.share(fd)))
        const other = sure('separate', native.separate(fd))
        opened.splice(opened.indexOf(fd), 1, other)
      }
    ],
    limit: [undefined, () => sure('limit', native.limit())],
    'kind of all kinds': [
      () => [
        ...socketpair(STREAM),
        ...socketpair(PACKETS),
        ...pipe(),
        ...Object.values(terminal()),
        file(),
        file('/'),
        tcp(),
        open('pidfd', native.pidfd(process.pid)),
        open('memfd', native.memfd('attack', 10)),
        open('edgeSet', native.edgeSet())
      ],
      fds => fds.map(fd => sure('kind', native.kind(fd)))
    ],
    isPipe: [pipe, ([fd]) => sure('isPipe', native.isPipe(fd))],
    peer: [() => socketpair(STREAM), ([fd]) => sure('peer', native.peer(fd, new Int32Array(100)))],
    'peer by its pidfd, and a signal': [
      () => open('pidfd', native.pidfd(process.pid)),
      fd => sure('signal', native.signal(fd, 0))
    ],
    passRights: [() => socketpair(STREAM), ([fd]) => sure('passRights', native.passRights(fd, true), ['ENOPROTOOPT'])],
    sendBuffer: [() => socketpair(STREAM), ([fd]) => sure('sendBuffer', native.sendBuffer(fd, 1_000_000))],
    shutdown: [() => socketpair(STREAM), ([fd]) => sure('shutdown', native.shutdown(fd, 1))],
    'a terminal': [
      terminal,
      ({ master, slave }) => {
        sure('resize', native.resize(master, 100, 30))
        sure('terminalSide', native.terminalSide(master))
        sure('terminalSide', native.terminalSide(slave))
        reopen(slave)
        sure('writeNow', native.writeNow(master, Buffer.from('attack\n'), 0, 7), ['EOPNOTSUPP'])
        sure('readNow', native.readNow(slave, Buffer.alloc(100), 0, 100), ['EAGAIN'])
        sure('writeNow', native.writeNow(slave, Buffer.from('attack\n'), 0, 7), ['EOPNOTSUPP'])
      }
    ],
    'a FIFO': [
      () => {
        const name = join(folder, 'fifo')
        execMkfifo(name)
        const fd = file(name, 'r+')
        return { fd, over: () => rmSync(name) }
      },
      ({ fd }) => {
        sure('isPipe', native.isPipe(fd))
        reopen(fd)
        sure('writeNow', native.writeNow(fd, Buffer.from('attack'), 0, 6), ['EOPNOTSUPP'])
        sure('readNow', native.readNow(fd, Buffer.alloc(100), 0, 100), ['EAGAIN'])
      }
    ],
    'a pipe': [
      pipe,
      ([reads, writes]) => {
        reopen(reads)
        sure('statusFlags', native.statusFlags(reads))
        sure('writeNow', native.writeNow(writes, Buffer.from('attack'), 0, 6))
        sure('pending', native.pending(reads))
        sure('readNow', native.readNow(reads, Buffer.alloc(100), 0, 100), ['EAGAIN'])
      }
    ],
    nonblocking: [
      pipe,
      ([fd]) => {
        sure('nonblocking', native.nonblocking(fd, true))
        sure('nonblocking', native.nonblocking(fd, false))
      }
    ],
    credentials: [
      () => socketpair(DATAGRAM),
      ([fd, other]) => {
        sure('passCredentials', native.passCredentials(fd, true))
        sure('passPidfd', native.passPidfd(fd, true), ['ENOPROTOOPT'])
        sure('sendMessage', native.sendMessage(other, Buffer.from('attack'), 0, 6, NO_FDS, 0, 0, null))
        const out = results()
        sure('receiveMessage', native.receiveMessage(fd, Buffer.alloc(100), 0, 100, out, Buffer.alloc(108), true), [
          'EAGAIN'
        ])
        if (out[2] & 8 && out[7] > 0) opened.push(out[7])
        sure('passPidfd', native.passPidfd(fd, false), ['ENOPROTOOPT'])
      }
    ],
    name: [unixListener, fd => sure('name', native.name(fd, false, Buffer.alloc(108)))],
    inetName: [tcp, fd => sure('inetName', native.inetName(fd, false, new Int32Array(2), Buffer.alloc(64)))],
    'inetName of the peer': [
      async () => {
        const made = await listening(1)
        return { ...made, fd: open('accept', native.accept(made.listener)) }
      },
      ({ fd }) => sure('inetName', native.inetName(fd, true, new Int32Array(2), Buffer.alloc(64)))
    ],
    'a datagram': [
      () => socketpair(DATAGRAM),
      ([fd, other]) => {
        const [reads, writes] = pipe()
        sure(
          'sendMessage',
          native.sendMessage(other, Buffer.from('attack'), 0, 6, Int32Array.of(reads, writes), 0, 2, null)
        )
        sure('pending', native.pending(fd))
        sure('nextSize', native.nextSize(fd), ['EAGAIN'])
        const out = results()
        const got = native.receiveMessage(fd, Buffer.alloc(100), 0, 100, out, Buffer.alloc(108), false)
        if (got >= 0) opened.push(...out.subarray(8, 8 + out[1]))
        sure('receiveMessage', got, ['EAGAIN'])
      }
    ],
    'a stream': [
      () => socketpair(STREAM),
      ([fd, other]) => {
        for (const [index, send] of [
          (bytes, fds) => native.send(other, bytes, 0, bytes.length, fds, 0, fds.length),
          (bytes, fds) => native.sendVector(other, [bytes, bytes], 0, fds, 0, fds.length)
        ].entries()) {
          const [reads, writes] = pipe()
          sure(`send ${index}`, send(Buffer.from('attack'), Int32Array.of(reads, writes)))
        }
        sure('send', native.send(other, Buffer.from('attack'), 0, 6, NO_FDS, 0, 0))
        sure('peek', native.peek(fd, Buffer.alloc(100), 0, 100), ['EAGAIN'])
        for (;;) {
          const out = results()
          const got = native.receivePlaced(fd, Buffer.alloc(100), 0, 100, out)
          if (got >= 0) opened.push(...out.subarray(8, 8 + out[1]))
          if (sure('receivePlaced', got, ['EAGAIN']) <= 0) break
        }
      }
    ],
    lock: [
      () => file('/dev/null'),
      fd => {
        sure('lock', native.lock(fd, true))
        sure('lock', native.lock(fd, false))
      }
    ],
    'an edge set': [
      () => socketpair(STREAM),
      ([fd, other]) => {
        const set = open('edgeSet', native.edgeSet())
        sure('edgeAdd', native.edgeAdd(set, fd))
        sure('edgeAddEnd', native.edgeAddEnd(set, other))
        sure('edgeReady', native.edgeReady(set, new Int32Array(8)))
        sure('edgeRemove', native.edgeRemove(set, fd))
      }
    ],
    processes: [
      undefined,
      () => {
        sure('isReaper', native.isReaper())
        sure('endedChild', native.endedChild())
        sure('collect', native.collect(process.ppid), ['ECHILD'])
      }
    ],
    // EINVAL: it can't be told that this is the main thread
    dieAfterParent: [undefined, () => sure('dieAfterParent', native.dieAfterParent(3600, process.ppid), ['EINVAL'])],
    memory: [
      () => open('memfd', native.memfd('attack', 4096)),
      fd => {
        sure('seal', native.seal(fd, 2))
        sure('seals', native.seals(fd))
        for (const writable of [true, false]) {
          const holder = []
          sure('map', native.map(fd, 4096, writable, holder))
          sure('unmap', native.unmap(holder[0]))
        }
      }
    ],
    'watchers on the loop': [
      () => socketpair(STREAM),
      ([fd, other]) => {
        const ids = []
        try {
          for (const each of [fd, other]) ids.push(sure('watch', native.watch(each, false)))
          for (const id of ids) sure('interest', native.interest(id, 1))
          sure('spin', native.spin(ids[0], 10), ['ENOMEM'])
        } finally {
          for (const id of ids) native.unwatch(id)
        }
      }
    ],
    'large bodies': [
      () => socketpair(STREAM),
      ([fd]) => {
        const id = sure('watch', native.watch(fd, true))
        try {
          for (const size of [20_000, 1 << 20, 33 << 20]) {
            const buffer = Buffer.allocUnsafeSlow(size)
            sure('target', native.target(id, buffer, 0, size))
            sure('target', native.target(id, null, 0, 0))
          }
          sure('releaseHeap', native.releaseHeap())
        } finally {
          native.unwatch(id)
        }
      }
    ],
    'a thread of its own': [undefined, () => inThread(THREAD)],
    'a thread that ends with open files': [undefined, () => inThread(`${THREAD}\nprocess.exit()`)]
  }
}

const THREAD = `
const { workerData } = require('node:worker_threads')
import(workerData).then(({ native }) => {
  const out = new Int32Array(2)
  const sure = result => { if (result < 0) throw Object.assign(new Error(String(result)), { code: 'E' + -result, errno: result }); return result }
  sure(native.pipe(out))
  sure(native.hold(require('node:fs').openSync('/dev/null')))
  const ids = []
  for (let at = 0; at < 20; at++) {
    const ends = new Int32Array(2)
    sure(native.pipe(ends))
    ids.push(sure(native.watch(ends[0], false)))
  }
  for (const id of ids) native.unwatch(id)
})`

/** The environment's own memory is allocated there. */
function inThread(code) {
  return new Promise((resolve, reject) => {
    const worker = new Worker(code, {
      eval: true,
      workerData: new URL('../../build/dist/os/native.js', import.meta.url).href
    })
    let failure
    worker.once('error', error => {
      failure = error
    })
    worker.once('exit', () => (failure === undefined ? resolve() : reject(failure)))
  })
}

function execMkfifo(name) {
  createRequire(import.meta.url)('node:child_process').execFileSync('mkfifo', [name])
}

export const variants = Object.keys(functionsOf(''))
export const far = () => ({})

export function near(folder) {
  const functions = functionsOf(folder)
  let ready
  const clean = async () => {
    await ready?.over?.()
    ready = undefined
    for (const fd of opened.splice(0)) native.close(fd)
    rmSync(join(folder, 'name'), { force: true })
  }
  return {
    async prepare({ variant }) {
      if (variant !== undefined) ready = await functions[variant][0]?.()
    },
    async run(round) {
      if (round.variant !== undefined) {
        await round.attempt(round.variant, () => functions[round.variant][1](ready))
        return
      }
      for (const [name, [prepare, use]] of Object.entries(functions)) {
        ready = await prepare?.()
        await round.attempt(name, () => use(ready))
        await clean()
      }
    },
    check: clean
  }
}
