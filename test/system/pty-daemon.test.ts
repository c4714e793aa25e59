/** examples/pty-daemon.ts: shells and those who use them outlive the process that owns them. */
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync } from 'node:fs'
import net from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { times } from '../helpers/full.ts'
import { temporaryPath } from '../helpers/path.ts'
import { type Running, start, startFixture } from '../helpers/process.ts'
import { example } from '../helpers/programs.ts'
import { testInCi, until } from '../helpers/test.ts'

testInCi(
  'a shell and its user move from daemon to daemon, though a successor dies before it has everything, and no typed byte is lost',
  async t => {
    const directory = mkdtempSync(temporaryPath('daemon'))
    let daemon = await startDaemon(directory)
    t.is(daemon.says, `daemon: process ${daemon.running.child.pid} has 0 shells`)

    const client = net.connect(join(directory, 'shell.sock'))
    const output = createInterface({ input: client })[Symbol.asyncIterator]()
    client.write('stty -echo; PS1=; echo shell $$\n')
    const shell = Number(await lineLike(output, /shell (\d+)/))
    client.write('while read word; do echo "<$word>"; done\n')

    let typed = 0
    let answered = 0
    const type = () => client.write(`${typed++}\n`)
    for (let i = 0; i < 20; i++) type()
    // From here on there are always lines under way
    const goOn = async (enough: () => boolean) => {
      while (!enough()) {
        t.is(Number(await lineLike(output, /^<(\d+)>/)), answered++)
        type()
      }
    }
    const successor = startFixture('asks-and-dies', [join(directory, 'daemon.sock')])
    let died = false
    const dying = successor.exit.then(() => {
      died = true
    })
    await goOn(() => died)
    await dying
    t.is(await daemon.running.line(), `daemon: process ${daemon.running.child.pid} has 1 shells`)
    await goOn(() => answered >= 50)
    t.true(runs(shell))

    const moves = times(2, 3)
    for (let move = 1; move <= moves; move++) {
      let next: Awaited<ReturnType<typeof startDaemon>> | undefined
      const starting = startDaemon(directory).then(value => {
        next = value
      })
      await goOn(() => next !== undefined)
      await starting
      t.is(next!.says, `daemon: process ${next!.running.child.pid} has 1 shells`)
      t.deepEqual(await daemon.running.exit, { code: 0, signal: null, stderr: '' })
      daemon = next!
      const goal = answered + 50
      await goOn(() => answered >= goal)
    }
    t.true(runs(shell))
    client.destroy()
    await until(() => !runs(shell), 'the shell has ended, as its terminal is gone')
    daemon.running.child.kill()
    await daemon.running.exit
  }
)

testInCi('who does not read, or leaves in the middle of it, keeps nobody from moving', async t => {
  const directory = mkdtempSync(temporaryPath('daemon'))
  const daemon = await startDaemon(directory)
  const clients = await Promise.all(['reads', 'stays', 'leaves'].map(() => connectTo(join(directory, 'shell.sock'))))
  const [reads, stays, leaves] = clients as [net.Socket, net.Socket, net.Socket]
  const output = createInterface({ input: reads })[Symbol.asyncIterator]()
  reads.write('stty -echo; PS1=; echo shell $$\n')
  const shell = await lineLike(output, /shell (\d+)/)
  for (const client of [stays, leaves]) {
    client.write('exec yes\n')
    await once(client, 'readable') // it is not read: the daemon can't write all that comes
  }

  const starting = startDaemon(directory)
  // The shells that are to move do so when their name is free again
  await until(() => !existsSync(join(directory, 'daemon.sock')), 'the successor has asked')
  leaves.destroy()
  const next = await starting
  t.is(next.says, `daemon: process ${next.running.child.pid} has 1 shells`)
  reads.write('echo still $$\n')
  t.is(await lineLike(output, /still (\d+)/), shell)
  t.is(daemon.running.child.exitCode, null, 'one has stayed')
  stays.resume()
  await bytesOf(stays, 1 << 20)
  stays.destroy()
  t.deepEqual(await daemon.running.exit, { code: 0, signal: null, stderr: '' })

  reads.destroy()
  await until(() => !runs(Number(shell)), 'the shell has ended')
  next.running.child.kill()
  await next.running.exit
})

testInCi('who has left at the moment of the move keeps nobody else from moving', async t => {
  const directory = mkdtempSync(temporaryPath('daemon'))
  // A stream is destroyed some time before it is closed, and that is the moment
  const daemon = await startDaemon(directory, 'late-close')
  const clients = await Promise.all(['reads', 'leaves'].map(() => connectTo(join(directory, 'shell.sock'))))
  const [reads, leaves] = clients as [net.Socket, net.Socket]
  const [output, other] = clients.map(input => createInterface({ input })[Symbol.asyncIterator]())
  for (const client of clients) client.write('stty -echo; PS1=; echo shell $$\n')
  const shell = await lineLike(output!, /shell (\d+)/)
  const lost = await lineLike(other!, /shell (\d+)/)
  leaves.destroy()
  t.is(await daemon.running.line(), 'destroyed')
  t.true(runs(Number(lost)), 'its session is there until the move')

  const next = await startDaemon(directory)
  t.is(next.says, `daemon: process ${next.running.child.pid} has 1 shells`)
  t.deepEqual(await daemon.running.exit, { code: 0, signal: null, stderr: '' })
  await until(() => !runs(Number(lost)), 'the shell of the one who left has ended')
  reads.write('echo still $$\n')
  t.is(await lineLike(output!, /still (\d+)/), shell)
  reads.destroy()
  await until(() => !runs(Number(shell)), 'the shell has ended')
  next.running.child.kill()
  await next.running.exit
})

async function connectTo(path: string): Promise<net.Socket> {
  const client = net.connect(path)
  await once(client, 'connect')
  return client
}

async function bytesOf(client: net.Socket, count: number): Promise<void> {
  const from = client.bytesRead
  await until(() => client.bytesRead - from > count, `${count} bytes more`)
}

/** `preload`: a fixture that is loaded before it. */
async function startDaemon(directory: string, preload?: string): Promise<{ running: Running; says: string }> {
  const before = preload === undefined ? [] : ['--import', new URL(`../fixtures/${preload}.mjs`, import.meta.url).href]
  const running = start(process.execPath, [...before, example('pty-daemon'), directory])
  return { running, says: await running.line() }
}

/** The shell's prompt may stand in front, as it may come after the echo of what is typed. */
async function lineLike(lines: AsyncIterator<string>, pattern: RegExp): Promise<string> {
  for (;;) {
    const { value, done } = await lines.next()
    if (done) throw new Error(`no line like ${pattern}`)
    const found = pattern.exec(value.replaceAll('\r', ''))
    if (found !== null) return found[1]!
  }
}

function runs(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) Z/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return false
  }
}
