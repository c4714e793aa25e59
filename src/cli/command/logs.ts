/** `passfd logs`: the output of a running server's workers: the last lines, and then as they write it. */
import { Buffer } from 'node:buffer'
import { type Command, InvalidArgumentError } from 'commander'
import type { AdminEvent, AdminWorker } from '../../prefork/index.ts'
import { type Admin, connectAdmin } from '../admin-client.ts'
import { asRecord, plain, prefixed } from '../serve/output.ts'
import { count } from '../serve/read.ts'
import { examples, hasColors, Ui } from '../ui.ts'
import { countOf } from '../words.ts'

/** How many lines a server keeps: see src/prefork/supervisor/last-lines.ts, which is not loaded for this. */
const MOST_LINES = 1000

export function register(program: Command): void {
  const logs = program
    .command('logs')
    .description(
      "Prints the last lines of a server's workers, also of those that have ended, and then what they write, until the server ends. A terminal gets the slot and pid in front of each line."
    )
    .argument('[server]', 'its name, or the path of its admin socket (default: the server of this folder)')
    .option(
      '-n, --lines <number>',
      `how many of the last lines, up to ${MOST_LINES.toLocaleString('en')}`,
      linesOf,
      100
    )
    .option('--no-follow', 'print the last lines only')
    .option('--json', 'a record a line: time, slot, id, pid, stream, and text or json')
    .action((server: string | undefined, options: LogsOptions) => showLogs(server, options, new Ui(logs)))
  examples(
    logs,
    ['passfd logs', 'the server of this folder'],
    ['passfd logs --lines 1000 --no-follow', 'what there is, for a pager or grep'],
    ['passfd logs shop --json', 'for a program']
  )
}

/** So many bytes wait for whoever reads stdout; further lines are dropped. More than all last lines together. */
const MOST_UNREAD = 16 * 1024 * 1024

interface LogsOptions {
  readonly lines: number
  readonly follow: boolean
}

function linesOf(text: string): number {
  try {
    return count(0, MOST_LINES)(text)
  } catch (error) {
    throw new InvalidArgumentError(`It must be ${(error as Error).message}.`)
  }
}

/** Resolves when the server has ended, and none has taken its place; without `follow` when the last lines are there. */
async function showLogs(server: string | undefined, { lines, follow }: LogsOptions, ui: Ui): Promise<void> {
  const { stdout, env } = ui.streams
  const connect = (): Promise<Admin> => connectAdmin(server, process.cwd(), { env })
  const render = ui.json ? asRecord : stdout.isTTY === true ? prefixed(hasColors(stdout, env)) : plain
  const channels = new Set<Admin['channel']>()
  let isRead = true
  /** Lines since the last one that was written. */
  let dropped = 0
  const onError = (): void => {
    isRead = false
    for (const channel of channels) channel.destroy()
  }
  process.stdout.once('error', onError) // `passfd logs | head`
  /** A superseded server's workers may still write while those of its successor do. */
  const print = async ({ channel, name, path }: Admin, last: number): Promise<void> => {
    let next: Promise<void> | undefined
    let seen = 0
    let wanted = Number.POSITIVE_INFINITY
    const see = (): void => {
      if (seen >= wanted && !follow) void channel.close()
    }
    channels.add(channel)
    channel.on('message', ({ value }) => {
      if (value.event === 'line' && (follow || seen < wanted)) {
        write(value)
        seen++
        see()
      } else if (value.event === 'superseded' && follow) {
        next = connect().then(admin => print(admin, MOST_LINES)) // all that its workers have written
        next.catch(() => {}) // it is awaited later
      }
    })
    const answer = await channel.request<{ last: number }>({ command: 'subscribe', lines: true, last })
    wanted = answer.last
    see()
    await channel.closed
    channels.delete(channel)
    if (next === undefined && isRead && follow) ui.note(`passfd: ${name ?? path} has ended.`)
    await next
  }
  const write = ({ worker, stream = 'stdout', line = new Uint8Array(), length, missed, time }: AdminEvent): void => {
    if ((stdout.writableLength ?? 0) > MOST_UNREAD) {
      dropped += 1 + (missed ?? 0)
      return
    }
    const all = dropped + (missed ?? 0)
    dropped = 0
    if (all > 0) ui.note(`passfd: ${countOf(all, 'line')} missed, because this reads too slowly.`)
    const { buffer, byteOffset, byteLength } = line
    stdout.write(render(worker as AdminWorker, stream, Buffer.from(buffer, byteOffset, byteLength), time))
    if (length !== undefined) ui.note(`passfd: The line above is cut: it has ${length.toLocaleString('en')} bytes.`)
  }
  try {
    await print(await connect(), lines)
  } catch (error) {
    if (isRead) throw error // else it is of a channel that was destroyed
  } finally {
    process.stdout.off('error', onError)
  }
}
