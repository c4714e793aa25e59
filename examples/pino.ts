// Workers that log by pino into a file which only their parent can open. The parent rotates it while they log: no line is lost or torn.
//   node --import tsx examples/pino.ts /tmp/logs
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, renameSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { type Channel, connect, Descriptor, pair } from 'passfd'
import { destination, pino } from 'pino'

type Order = { log: Descriptor } | 'stop'

if (process.argv[2] === 'worker') await work()
else await supervise(process.argv[2] ?? 'logs')

async function work() {
  const channel = await connect<Order>(Descriptor.adopt(3))
  let file: ReturnType<typeof destination> | undefined
  const log = pino({ base: { pid: process.pid } }, { write: line => file!.write(line) })
  let count = 0
  let stopped = false

  /** pino's stream owns the number: `end()` writes what it has kept, and closes it. */
  async function replace(next: Descriptor | undefined) {
    const last = file
    file = next && destination({ fd: next.detach(), sync: false })
    if (last === undefined) return
    last.end()
    await once(last, 'close')
  }

  channel.serve(async ({ value }) => {
    if (value === 'stop') stopped = true
    await replace(value === 'stop' ? undefined : value.log)
    return count // the last file has all the lines before this answer
  })
  while (file === undefined) await turn()
  while (!stopped) {
    for (let i = 0; i < 5 && !stopped; i++) log.info({ count: ++count }, 'a line of the log')
    await turn()
  }
}

async function supervise(folder: string) {
  mkdirSync(folder, { recursive: true })
  const current = join(folder, 'app.log')
  const workers = [startWorker(), startWorker()]

  /** O_APPEND: the kernel puts each write of each process at the end of the file, in one piece. */
  async function open() {
    const log = await Descriptor.open(current, 'a')
    const given = workers.map(({ channel }) => channel.request({ log: log.dup() }))
    log.close()
    return Promise.all(given)
  }

  await open()
  for (let number = 1; number <= 4; number++) {
    // They log into the renamed file until they have the new one
    renameSync(current, `${current}.${number}`)
    console.log(`app.log.${number} is complete after ${(await open()).join(' and ')} lines`)
  }
  const counts = await Promise.all(workers.map(({ channel }) => channel.request('stop')))
  for (const { channel, child } of workers) {
    const ended = once(child, 'close')
    await channel.close()
    await ended
  }
  console.log(`all: ${counts.join(' and ')} lines`)
}

function startWorker(): { channel: Channel<unknown, Order>; child: ChildProcess } {
  const [channel, end] = pair<unknown, Order>()
  const child = spawn(process.execPath, [...process.execArgv, process.argv[1]!, 'worker'], {
    stdio: ['ignore', 'inherit', 'inherit', end.borrow()]
  })
  end.close()
  return { channel, child }
}
