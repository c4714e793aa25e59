/** A worker that runs the code of an attacker, against its supervisor, the other workers and foreign processes. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import type { ExecutionContext } from 'ava'
import type { Descriptor } from '../../../src/descriptor/descriptor.ts'
import type { Supervisor, SupervisorOptions } from '../../../src/prefork/index.ts'
import { connectPackets } from '../../../src/stream/index.ts'
import { temporaryPath } from '../../helpers/path.ts'
import { systemPython } from '../../helpers/programs.ts'
import { get, program, supervising } from '../../helpers/supervising.ts'
import { test, testInCi, until } from '../../helpers/test.ts'

const index = new URL('../../../build/dist/index.js', import.meta.url).href

/** What an attacker reports as its number of connections, so that the test finds it. */
const MARK = 7777

/**
 * The first process serves. Each further one speaks the control protocol by itself, and attacks when it gets a message on its channel: the second process by
 * the first attack, and so on.
 */
function source(attacks: readonly string[], victim: number): string {
  return program(`
    import { spawnSync } from 'node:child_process'
    import { writeFileSync } from 'node:fs'
    import { createServer } from 'node:http'
    import { connect, Descriptor } from '${index}'
    const PIDS = { pid: ${victim}, ppid: ${victim}, MAINPID: ${victim}, kill: ${victim}, slot: 0, id: 1 }
    const isTaken = count => {
      try { writeFileSync('${temporaryPath('process')}.' + count, '', { flag: 'wx' }) } catch { return true }
    }
    let count = 0
    while (isTaken(count)) count++
    if (count === 0) {
      const worker = await joinSupervisor()
      await worker.listen('http', createServer((_, response) => response.end('honest ' + worker.id)))
      await worker.ready()
    } else {
      const authorize = () => true
      const control = await connect(Descriptor.adopt(3), { authorize })
      const channel = await connect(Descriptor.adopt(4), { authorize })
      const BEAT = { type: 'beat', connections: ${MARK}, requests: 1, lag: 0 }
      const say = message => control.send({ ...message, ...PIDS })
      const ask = message => control.request({ ...message, ...PIDS }, { descriptors: 0 })
      const welcome = await control.request({ type: 'join', version: 1, newest: 5 }, { descriptors: 253 })
      control.serve(() => {})
      await control.request({ type: 'ready' }, { descriptors: 0 })
      let beats = true
      const attacks = [${attacks.map(attack => `async () => { ${attack} }`).join(',\n')}]
      setInterval(() => beats && control.send(BEAT), 50)
      channel.serve(async () => {
        await attacks[count - 1]?.()
        return 'done'
      })
    }`)
}

/** A process of nobody's: whatever happens, it gets no signal. */
async function withVictim(body: (pid: number) => Promise<void>): Promise<boolean> {
  const victim = spawn('sleep', ['1000'], { stdio: 'ignore' })
  await once(victim, 'spawn')
  try {
    await body(victim.pid!)
    return victim.exitCode === null && victim.signalCode === null
  } finally {
    victim.kill('SIGKILL')
    await once(victim, 'exit')
  }
}

interface Attacked {
  readonly supervisor: Supervisor
  /** The reasons of the ends of attackers, in order. */
  readonly reasons: string[]
  /** Has the attacker attack that runs now. Resolves to 'done', or rejects if the attack has failed or the attacker has ended. */
  attack(): Promise<unknown>
}

async function attacked(
  t: ExecutionContext,
  attacks: readonly string[],
  options: Partial<SupervisorOptions>,
  body: (attacked: Attacked) => Promise<void>
): Promise<void> {
  const alive = await withVictim(async victim => {
    const entry = source(attacks, victim)
    const restart = () => ({ restart: true, delay: 0 }) as const
    const balance = { dispatch: 'round-robin' } as const
    const given = {
      entry,
      restart,
      balance,
      hangTimeout: 5000,
      stopTimeout: 500,
      killTimeout: 500,
      spawn: { stdio: 'ignore' },
      ...options
    }
    await supervising(t, { ...given, workers: 2 } as never, async supervisor => {
      const reasons: string[] = []
      supervisor.on('exit', worker => void reasons.push(worker.reason ?? 'none'))
      await supervisor.start()
      const attacker = () => supervisor.workers.find(({ connections }) => connections === MARK)
      const before = supervisor.workers.map(({ id }) => id)
      await body({
        supervisor,
        reasons,
        attack: async () => {
          await until(() => attacker() !== undefined, 'its first beat')
          return attacker()!.channel.request({}, { timeout: 60_000 })
        }
      })
      // The others have not ended, and serve
      t.true(
        supervisor.workers.some(({ id }) => before.includes(id)),
        'the honest worker has ended'
      )
      for (let times = 0; times < 10; times++) t.regex(await get(supervisor), /^honest [12]$/)
      await supervisor.stop()
    })
  })
  t.true(alive, 'a foreign process got a signal')
  t.is(({} as { polluted?: unknown }).polluted, undefined)
}

/** Each ends its worker. */
const ENDING: Record<string, [attack: string, reason: RegExp]> = {
  'a negative count of accepted connections': [
    "await say({ type: 'accepted', name: 'http', count: -1e9, taken: -1e9 })",
    /count is -1000000000 instead of an integer from 0/
  ],
  'counts that are no numbers': [
    "await say({ type: 'beat', connections: '\\x1b[2J', requests: {}, lag: NaN })",
    /connections is '/
  ],
  'a listener that it was not given': [
    "await say({ type: 'uses', name: 'admin', adopts: true })",
    /there is no listener admin/
  ],
  'a listener of the prototype': [
    "await say({ type: 'uses', name: '__proto__', adopts: true })",
    /there is no listener __proto__/
  ],
  'no control channel any more': ['beats = false; control.destroy(new Error("bye"))', /control channel has ended/],
  silence: ['beats = false', /has not been heard of for \d+ ms/]
}

testInCi('a worker that lies is ended with a report, and nobody else is harmed', async t => {
  const entries = Object.values(ENDING)
  await attacked(
    t,
    entries.map(([attack]) => attack),
    { hangTimeout: 1500 },
    async ({ supervisor, reasons, attack }) => {
      for (const [index, [, reason]] of entries.entries()) {
        attack().catch(() => {})
        await until(() => reasons.length === index + 1, `the end of ${Object.keys(ENDING)[index]}`)
        t.regex(reasons[index]!, reason)
        await until(() => supervisor.workers.length === 2, 'its successor')
        await until(() => supervisor.workers.every(({ state }) => state === 'ready'), 'its successor')
        t.regex(await get(supervisor), /^honest/)
      }
    }
  )
})

/** What is ignored: afterwards the same worker is there. */
const IGNORED = [
  // Fields that mean nothing, and keys of prototypes
  `const proto = JSON.parse('{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}}}')
   await say({ type: 'beat', connections: 0, requests: 1, lag: 0, ...proto, nested: proto })
   await control.send(proto)
   for (const type of ['__proto__', 'constructor', 'toString', 'give', 'inherit', 'lend', 'connections', 'stop', 7, null, {}])
     await control.send({ type, name: 'http', connections: [], end: Descriptor.socketpair()[0] })`,
  // Confirmations of what it was never told
  `for (const name of ['http', 'none', '__proto__'])
     for (let times = 0; times < 20; times++) {
       await say({ type: 'accepted', name, count: 64, taken: 64 })
       await say({ type: 'accepted', name, count: 2 ** 50, taken: 0, error: -24 })
       await say({ type: 'leaves', name })
       await say({ type: 'leaves', name, grant: times + 1 })
       await say({ type: 'uses', name, adopts: true, grant: times + 1 })
     }
   await say({ type: 'closed', count: 2 ** 50 })`,
  // Connections that it never had: it serves, so it has none for others
  `for (let times = 0; times < 5; times++)
     await ask({ type: 'idle', name: 'http', connections: Array.from({ length: 100 }, () => Descriptor.socketpair()[0]) }).then(
       () => { throw new Error('taken') }, () => {})`,
  // A second join, and a hand-over that nobody asked for
  `await ask({ type: 'join', version: 1, newest: 1 }).then(() => { throw new Error('joined') }, () => {})
   await say({ type: 'handsOver', gives: true, inherits: true })
   await say({ type: 'recovered' })
   await say({ type: 'failed', name: '\\x1b]0;', message: 'x'.repeat(30000) })
   await say({ type: 'recovered' })`,
  // 253 descriptors of each kind with each message
  `const { readable, writable } = Descriptor.pipe()
   const kinds = [() => Descriptor.openSync('/dev/null'), () => Descriptor.openSync('/'), () => Descriptor.memfd('x'),
     () => Descriptor.pidfd(process.pid), () => Descriptor.socketpair()[0], () => readable.dup(), () => writable.dup(),
     () => Descriptor.from(0), () => Descriptor.openSync('/dev/ptmx', 'r+'), () => welcome.listeners.http.listener.dup()]
   for (const type of ['beat', 'closed', 'handsOver', 'recovered', 'new kind']) {
     const given = Array.from({ length: 253 }, (_, i) => kinds[i % kinds.length]())
     const fields = { connections: 0, requests: 1, lag: 0, count: 0, name: 'http', adopts: false, gives: false, inherits: false }
     await say({ type, ...fields, given })
   }
   for (let times = 0; times < 4; times++)
     await ask({ type: 'idle', name: 'http', connections: Array.from({ length: 253 }, (_, i) => kinds[i % kinds.length]()) }).catch(() => {})`,
  // A flood
  `for (let times = 0; times < 200000; times++) {
     const sent = control.send({ type: 'beat', connections: 0, requests: 1, lag: 0, inspector: 'ws://127.0.0.1:' + times + '/' })
     if (times % 1000 === 0) await sent
   }`
]

testInCi('what a worker may not say is ignored: nothing leaks, and nobody else is harmed', async t => {
  for (const balance of [{ dispatch: 'least-connections' }, 'shared'] as const)
    await attacked(
      t,
      [IGNORED.map(attack => `{ ${attack} }`).join('\n')],
      { balance, hangTimeout: 0 },
      async ({ supervisor, reasons, attack }) => {
        const before = supervisor.workers.map(({ id }) => id)
        const done = attack()
        let answered = 0
        let over = false
        const end = (): void => {
          over = true
        }
        done.then(end, end)
        while (!over && balance !== 'shared') {
          t.regex(await get(supervisor), /^honest/)
          answered++
        }
        t.is(await done, 'done')
        t.true(balance === 'shared' || answered > 0)
        t.deepEqual([supervisor.workers.map(({ id }) => id), reasons], [before, []])
      }
    )
})

/** Leaves what is never read in a TCP connection, and then lets close(2) of it wait for 20 s. */
const LINGERS = `
  const { createServer, createConnection } = await import('node:net')
  const { once } = await import('node:events')
  const listener = createServer({ pauseOnConnect: true }).listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const make = async () => {
    const client = createConnection(listener.address().port, '127.0.0.1')
    await once(client, 'connect')
    const copy = Descriptor.from(client)
    client.destroy()
    await once(client, 'close')
    const script = \`
import socket, struct
s = socket.socket(fileno=0)
s.setblocking(False)
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 20))
try:
    while True: s.send(bytes(65536))
except BlockingIOError: pass\`
    spawnSync('${systemPython}', ['-c', script], { stdio: [copy.borrow(), 'ignore', 'inherit'] })
    return copy
  }`

/** The loop does not turn until the file is there: what is sent meanwhile waits, and the sender can close its own copies first. */
function standUntil(path: string): void {
  const cell = new Int32Array(new SharedArrayBuffer(4))
  for (let waits = 0; waits < 1000 && !existsSync(path); waits++) Atomics.wait(cell, 0, 0, 20)
}

test('sockets whose close waits do not hold up the supervisor, whatever a worker sends them with', async t => {
  const [begun, sent] = [temporaryPath('begun'), temporaryPath('sent')]
  const attack = `writeFileSync('${begun}', '')
    ${LINGERS}
    const { closeSync } = await import('node:fs')
    const all = [await make(), await make(), await make()]
    const numbers = all.map(copy => copy.borrow())
    await say({ type: 'beat', connections: 0, requests: 1, lag: 0, more: all[0] })
    await say({ type: 'new kind', more: all[1] })
    await say({ type: 'stopping' })
    const asked = ask({ type: 'idle', name: 'nobody uses it', connections: [all[2]] })
    for (let turns = 0; turns < 3; turns++) await new Promise(setImmediate) // all has left
    for (const number of numbers) closeSync(number)
    writeFileSync('${sent}', '')
    await asked`
  await attacked(t, [attack], { hangTimeout: 0, stopTimeout: 3000, killTimeout: 200 }, async ({ attack, reasons }) => {
    const done = attack()
    await until(() => existsSync(begun), 'the attack')
    standUntil(sent)
    t.true(existsSync(sent))
    let longest = 0
    let last = performance.now()
    const look = setInterval(() => {
      longest = Math.max(longest, performance.now() - last)
      last = performance.now()
    }, 10)
    t.is(await done, 'done')
    await until(() => reasons.length > 0, 'the end of the worker')
    clearInterval(look)
    t.true(longest < 5000, `the supervisor stood still for ${longest} ms`)
  })
})

/** Writes down where it asks, and never listens. */
function silent(desk: string): [string, ...string[]] {
  return [
    process.execPath,
    program(`import { writeFileSync } from 'node:fs'
      writeFileSync(${JSON.stringify(desk)}, process.env.PASSFD_DESK)
      setInterval(() => {}, 1000)`)
  ]
}

test('a foreign process that a worker has made its listening process gets no signal', async t => {
  const desk = temporaryPath('desk')
  await supervising(
    t,
    { program: silent(desk), listeners: {}, stopTimeout: 200, killTimeout: 200 },
    async supervisor => {
      const started = supervisor.start()
      const read = (): string => {
        try {
          return readFileSync(desk, 'utf8')
        } catch {
          return ''
        }
      }
      await until(() => read() !== '', 'the desk')
      const [name, token] = read().split(' ') as [string, string]
      // This process: if the supervisor signalled it, the whole test would end
      const socket = await connectPackets({ abstract: name })
      const answer = once(socket, 'message')
      const join = { type: 'join', version: 1, newest: 5 }
      await socket.send(JSON.stringify({ token, wanted: { port: 0, host: '127.0.0.1' }, nth: 1, join }))
      const [{ bytes, descriptors }] = (await answer) as [{ bytes: Buffer; descriptors: Descriptor[] }]
      t.is(JSON.parse(bytes.toString()).type, 'granted')
      const ends = descriptors.map(one => one.claim())
      t.is(supervisor.workers[0]!.pid, process.pid)
      const failed = t.throwsAsync(started)
      await supervisor.kill()
      await failed
      for (const end of ends) end.close()
      socket.destroy()
    }
  )
})
