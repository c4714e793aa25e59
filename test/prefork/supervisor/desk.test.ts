/** The desk of a supervisor: any process of the workers' user may write to it whatever it likes. */
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { connectPackets, type PacketSocket } from '../../../src/stream/index.ts'
import { isWritten, temporaryPath } from '../../helpers/path.ts'
import { get, program, supervising } from '../../helpers/supervising.ts'
import { test, testInCi, until } from '../../helpers/test.ts'

/** Writes down where it asks, and then listens. */
function source(desk: string): string {
  return `import { createServer } from 'node:http'
    import { writeFileSync } from 'node:fs'
    writeFileSync(${JSON.stringify(desk)}, process.env.PASSFD_DESK)
    createServer((_request, response) => response.end('served')).listen(0, '127.0.0.1')`
}

test('questions that are none end their own connection, not the supervisor', async t => {
  const desk = temporaryPath('desk')
  const command: [string, ...string[]] = [process.execPath, program(source(desk))]
  await supervising(t, { program: command, listeners: {} }, async supervisor => {
    await supervisor.start()
    const [name, token] = readFileSync(desk, 'utf8').split(' ') as [string, string]
    const join = { type: 'join', version: 1000 }
    const questions = [
      'null',
      '7',
      '{',
      '',
      JSON.stringify({ token: 'guessed', wanted: { port: 0 }, nth: 1, join }),
      JSON.stringify({ token, wanted: { port: 0 }, nth: 1, join })
    ]
    const answers: string[] = []
    for (const question of questions) {
      const socket = await connectPackets({ abstract: name })
      socket.on('message', ({ bytes }) => answers.push(bytes.toString()))
      const closed = once(socket, 'close')
      await socket.send(question)
      await closed
    }
    t.deepEqual(answers, ['{"type":"not the worker"}', '{"type":"not the worker"}'])
    t.true(existsSync(desk))
    t.is(await get(supervisor, Object.keys(supervisor.addresses)[0]), 'served')
    await supervisor.stop()
  })
})

test('connections that ask nothing keep nobody from asking', async t => {
  const desk = temporaryPath('desk')
  const command: [string, ...string[]] = [process.execPath, program(source(desk))]
  await supervising(t, { program: command, listeners: {} }, async supervisor => {
    await supervisor.start()
    const [name] = readFileSync(desk, 'utf8').split(' ') as [string, string]
    const before = readdirSync('/proc/self/fd').length
    const silent: PacketSocket[] = []
    for (let index = 0; index < 1200; index++) silent.push(await connectPackets({ abstract: name }))
    // The supervisor's ends are in this process, too
    await until(() => readdirSync('/proc/self/fd').length <= before + silent.length + 64, 'few are open')
    const first = supervisor.workers[0]!
    await supervisor.reload()
    t.not(supervisor.workers[0]!.pid, first.pid)
    t.is(await get(supervisor, Object.keys(supervisor.addresses)[0]), 'served')
    for (const socket of silent) socket.destroy()
    await supervisor.stop()
  })
})

test('a process of the program with which the supervisor has no version in common fails, and is named', async t => {
  const desk = temporaryPath('desk')
  const waits = `import { writeFileSync } from 'node:fs'
    writeFileSync(${JSON.stringify(desk)}, process.env.PASSFD_DESK)
    setInterval(() => {}, 1000)`
  const command: [string, ...string[]] = [process.execPath, program(waits)]
  await supervising(t, { program: command, listeners: {} }, async supervisor => {
    const started = supervisor.start()
    await until(() => existsSync(desk) && readFileSync(desk, 'utf8') !== '', 'the desk')
    const [name, token] = readFileSync(desk, 'utf8').split(' ') as [string, string]
    const socket = await connectPackets({ abstract: name })
    const answer = once(socket, 'message')
    await socket.send(
      JSON.stringify({ token, wanted: { port: 0 }, nth: 1, join: { type: 'join', version: 1000, newest: 1001 } })
    )
    const [{ bytes, descriptors }] = await answer
    socket.destroy()
    t.deepEqual(descriptors, [])
    t.is(JSON.parse(bytes.toString()).type, 'failed')
    process.kill(supervisor.workers[0]!.pid!)
    await t.throwsAsync(started, { message: /versions/ })
  })
})

testInCi(
  'a program may listen and close again and again: neither it nor the supervisor keeps a descriptor of each time',
  async t => {
    const output = temporaryPath('output')
    const listens = `import { once } from 'node:events'
    import { setImmediate as turn } from 'node:timers/promises'
    import { readdirSync, writeFileSync } from 'node:fs'
    import { createServer } from 'node:http'
    const stays = createServer((_request, response) => response.end('served')).listen(0, '127.0.0.1')
    await once(stays, 'listening')
    const open = () => readdirSync('/proc/self/fd').length
    const counts = []
    for (let time = 0; time < 150; time++) {
      const server = createServer().listen(0, '127.0.0.1')
      await once(server, 'listening')
      server.close()
      await once(server, 'close')
      await turn()
      if (time === 10) counts.push(open())
    }
    counts.push(open())
    writeFileSync(${JSON.stringify(output)}, JSON.stringify(counts))`
    const command: [string, ...string[]] = [process.execPath, program(listens)]
    for (const balance of ['per-worker', { dispatch: 'round-robin' }] as const)
      await supervising(t, { program: command, listeners: {}, balance, workers: 2 }, async supervisor => {
        rmSync(output, { force: true })
        await supervisor.start()
        const [name] = Object.keys(supervisor.addresses)
        await until(() => isWritten(output), 'its last server', 60)
        const [before, after] = JSON.parse(readFileSync(output, 'utf8'))
        t.true(after <= before + 3, `${before} descriptors, then ${after}`)
        t.is(await get(supervisor, name), 'served')
        await supervisor.stop()
      })
  }
)
