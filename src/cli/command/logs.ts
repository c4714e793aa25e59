/** `passfd logs`: the output of a running server's workers, as they write it. */
import { Buffer } from 'node:buffer'
import type { Command } from 'commander'
import type { AdminEvent, AdminWorker } from '../../prefork/index.ts'
import { type Admin, connectAdmin } from '../admin-client.ts'
import { asRecord, plain, prefixed } from '../serve/output.ts'
import { examples, hasColors, Ui } from '../ui.ts'
import { countOf } from '../words.ts'

export function register(program: Command): void {
  const logs = program
    .command('logs')
    .description(
      "Prints the output of a server's workers from now on, until the server ends. A terminal gets the slot and pid in front of each line."
    )
    .argument('[server]', 'its name, or the path of its admin socket (default: the server of this folder)')
    .option('--json', 'a record a line: time, slot, id, pid, stream, and text or json')
    .action((server: string | undefined) => follow(server, new Ui(logs)))
  examples(logs, ['passfd logs', 'the server of this folder'], ['passfd logs shop --json', 'for a program'])
}

/** Resolves when the server has ended, and none has taken its place. */
async function follow(server: string | undefined, ui: Ui): Promise<void> {
  const { stdout, env } = ui.streams
  const connect = (): Promise<Admin> => connectAdmin(server, process.cwd(), { env })
  const render = ui.json ? asRecord : stdout.isTTY === true ? prefixed(hasColors(stdout, env)) : plain
  const channels = new Set<Admin['channel']>()
  let isRead = true
  const onError = (): void => {
    isRead = false
    for (const channel of channels) channel.destroy()
  }
  process.stdout.once('error', onError) // `passfd logs | head`
  /** A superseded server's workers may still write while those of its successor do. */
  const print = async ({ channel, name, path }: Admin): Promise<void> => {
    let next: Promise<void> | undefined
    channels.add(channel)
    channel.on('message', ({ value }) => {
      if (value.event === 'line') write(value)
      else if (value.event === 'superseded') {
        next = connect().then(print)
        next.catch(() => {}) // it is awaited later
      }
    })
    await channel.request({ command: 'subscribe', lines: true })
    await channel.closed
    channels.delete(channel)
    if (next === undefined && isRead) ui.note(`passfd: ${name ?? path} has ended.`)
    await next
  }
  const write = ({ worker, stream = 'stdout', line = new Uint8Array(), length, missed }: AdminEvent): void => {
    if (missed !== undefined) ui.note(`passfd: ${countOf(missed, 'line')} missed, because this reads too slowly.`)
    const { buffer, byteOffset, byteLength } = line
    stdout.write(render(worker as AdminWorker, stream, Buffer.from(buffer, byteOffset, byteLength)))
    if (length !== undefined) ui.note(`passfd: The line above is cut: it has ${length.toLocaleString('en')} bytes.`)
  }
  try {
    await print(await connect())
  } finally {
    process.stdout.off('error', onError)
  }
}
