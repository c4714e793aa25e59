/** A process that is killed at any moment leaves nothing behind in the one at the other end of its channel. */
import { spawn } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { once } from 'node:events'
import { rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { type Channel, Descriptor, listen } from '../../src/index.ts'
import { times } from '../helpers/full.ts'
import { socketPath, temporaryPath } from '../helpers/path.ts'
import { openDescriptors, testInCi, until } from '../helpers/test.ts'

const PARTS = times(1, 5)
const VICTIMS = times(4, 100)
const AT_A_TIME = 4
const MESSAGES_AT_MOST = 60
const script = fileURLToPath(new URL('../fixtures/victim.mjs', import.meta.url))

/** Starts a victim; resolves to its channel when it has connected to the server. */
type Connected = (pid: number) => Promise<Channel<any, any>>

/** Exchanges messages and requests with a victim; resolves when `count` have come and the channel has ended for that. */
async function exchange(channel: Channel<any, any>, path: string, count: number, kill: () => void): Promise<void> {
  const open = (): Descriptor => Descriptor.openSync(path)
  let seen = 0
  const atRandom = [kill, () => setImmediate(kill), () => process.nextTick(kill)][randomInt(3)]!
  channel.serve(({ isRequest }) => {
    if (++seen === count) atRandom()
    return isRequest ? { file: open() } : undefined
  })
  if (count === 0) atRandom()
  for (let ended = false; !ended; ) {
    void channel.send({ files: [open(), open()] })
    try {
      const { file } = await channel.request<{ file: Descriptor }>({ file: open() })
      file.close()
    } catch {
      ended = true
    }
  }
}

/** One victim's life. Resolves to what is not as it should be, and what is still open of its or our making. */
async function killOne(path: string, connected: Connected): Promise<string[]> {
  const [theirs, ours] = [temporaryPath('theirs'), temporaryPath('ours')]
  for (const file of [theirs, ours]) writeFileSync(file, '')
  const child = spawn(process.execPath, [script, path, theirs], { stdio: ['ignore', 'ignore', 'inherit'] })
  const exit = once(child, 'exit')
  const channel = await Promise.race([connected(child.pid!), exit.then(() => undefined)])
  if (channel === undefined) return ['it ended before it had connected']
  await exchange(channel, ours, randomInt(MESSAGES_AT_MOST), () => child.kill('SIGKILL'))
  const wrong: string[] = []
  const [, signal] = await exit
  if (signal !== 'SIGKILL') wrong.push(`it ended by ${signal}`)
  const error = (await channel.closed) as NodeJS.ErrnoException | undefined
  if (error?.code !== 'ERR_PASSFD_DISCONNECTED') wrong.push(`the channel ended with ${error?.code}`)
  const left = (): string[] => [...openDescriptors().values()].filter(target => target === theirs || target === ours)
  await until(() => left().length === 0, 'all descriptors of a dead process closed').catch(() => wrong.push(...left()))
  for (const file of [theirs, ours]) rmSync(file)
  return wrong
}

// In parts, so that the run shows that it goes on
for (let part = 1; part <= PARTS; part++)
  testInCi(
    `processes killed in the middle of traffic leave nothing behind: ${part} of ${PARTS} times ${VICTIMS}`,
    async t => {
      const path = socketPath()
      const server = await listen(path)
      const waiting = new Map<number, (channel: Channel<any, any>) => void>()
      server.on('channel', channel => waiting.get(channel.peer.pid)!(channel))
      const connected: Connected = pid => new Promise(resolve => waiting.set(pid, resolve))
      let left = VICTIMS
      const lane = async (): Promise<void> => {
        while (left-- > 0) t.deepEqual(await killOne(path, connected), [])
      }
      await Promise.all(Array.from({ length: AT_A_TIME }, lane))
      await server.close()
    }
  )
