/** `passfd status`, `reload`, `scale` and `stop`: a running server, seen and commanded by its admin channel. */
import { availableParallelism } from 'node:os'
import type { Command } from 'commander'
import { type Admin, connectAdmin, statusOf } from '../admin-client.ts'
import { CommandError, EXIT } from '../exit.ts'
import { Expected, workers as readWorkers } from '../serve/read.ts'
import { examples, Ui } from '../ui.ts'
import { countOf, duration } from '../words.ts'
import { statusText } from './status-text.ts'
import { waitsFor } from './waits.ts'

const SERVER = 'its name, or the path of its admin socket (default: the server of this folder)'

export function register(program: Command): void {
  const status = program
    .command('status')
    .description('Shows a running server: its listeners and workers.')
    .argument('[server]', SERVER)
    .option('--json', 'print JSON')
    .action((server: string | undefined) =>
      onServer(status, server, async (admin, ui) => {
        const found = await statusOf(admin)
        ui.result({ name: admin.name, ...found }, statusText(found, admin.name ?? admin.path, ui.out))
      })
    )
  examples(
    status,
    ['passfd status', 'the server of this folder'],
    ['passfd status shop --json', 'of this name, for a script']
  )

  const reload = program
    .command('reload')
    .description('Replaces all workers by new ones, one after the other, without losing a request.')
    .argument('[server]', SERVER)
    .option('--json', 'print JSON')
    .action((server: string | undefined) =>
      onServer(reload, server, async (admin, ui) => {
        const began = performance.now()
        const detail = await detailOf(admin)
        await ui.progress(`Reloading ${label(admin)}`, admin.channel.request({ command: 'reload' }), detail)
        const { size } = await statusOf(admin)
        const time = performance.now() - began
        ui.result(
          { reloaded: true, workers: size, milliseconds: Math.round(time) },
          `Reloaded ${label(admin)}: ${countOf(size, 'worker')} in ${duration(time)}.`
        )
      })
    )
  examples(reload, ['passfd reload', 'after a deploy'], ['passfd reload shop', 'the server of this name'])

  const scale = program
    .command('scale')
    .description('Sets the number of workers.')
    .argument('<workers>', 'their number, or max: one for each processor')
    .argument('[server]', SERVER)
    .option('--json', 'print JSON')
    .action((wanted: string, server: string | undefined) => {
      const workers = sizeOf(wanted)
      return onServer(scale, server, async (admin, ui) => {
        const before = (await statusOf(admin)).size
        const detail = await detailOf(admin)
        await ui.progress(`Scaling ${label(admin)}`, admin.channel.request({ command: 'scale', workers }), detail)
        ui.result({ workers, before }, `${label(admin)} has ${countOf(workers, 'worker')} (before: ${before}).`)
      })
    })
  examples(scale, ['passfd scale 3', 'the server of this folder'], ['passfd scale max shop', 'the server of this name'])

  const stop = program
    .command('stop')
    .description('Stops a server: its workers finish their requests. A second stop ends the time of --lame-duck.')
    .argument('[server]', SERVER)
    .option('--now', 'kill the workers, without finishing their requests')
    .option('--no-wait', 'do not wait until it has ended')
    .option('--json', 'print JSON')
    .action((server: string | undefined, { now = false, wait }: { now?: boolean; wait: boolean }) =>
      onServer(stop, server, async (admin, ui) => {
        const { pid } = await statusOf(admin)
        const began = performance.now()
        const detail = await detailOf(admin)
        await admin.channel.request({ command: now ? 'kill' : 'stop' })
        if (!wait) return ui.result({ stopping: true, pid }, `${label(admin)} (process ${pid}) stops.`)
        await ui.progress(`Stopping ${label(admin)}`, admin.channel.closed, detail)
        const time = performance.now() - began
        ui.result(
          { stopped: true, pid, milliseconds: Math.round(time) },
          `${label(admin)} (process ${pid}) has stopped after ${duration(time)}.`
        )
      })
    )
  examples(stop, ['passfd stop', 'the server of this folder'], ['passfd stop --now shop', 'at once'])
}

/** Connects, does the work, and closes the channel. */
async function onServer(
  command: Command,
  server: string | undefined,
  work: (admin: Admin, ui: Ui) => Promise<void>
): Promise<void> {
  const ui = new Ui(command)
  const admin = await connectAdmin(server, process.cwd(), { env: ui.streams.env })
  try {
    await work(admin, ui)
  } catch (error) {
    throw await fromServer(error, admin)
  } finally {
    await admin.channel.close()
  }
}

/** For `progress`: what the command waits for, compared with the workers of now. */
async function detailOf(admin: Admin): Promise<() => Promise<string>> {
  const old = new Set((await statusOf(admin)).workers.map(({ id }) => id))
  return async () => waitsFor(await statusOf(admin), old)
}

/** What the server has answered is said without what was around it. */
async function fromServer(error: unknown, admin: Admin): Promise<unknown> {
  const { code, remote } = error as { code?: string; remote?: { code?: string; message?: string } }
  if (code !== 'ERR_PASSFD_REMOTE' || remote?.message === undefined) return error
  const options = remote.code === undefined ? { cause: error } : { cause: error, code: remote.code }
  if (remote.code === 'ERR_PASSFD_SUPERVISOR_STOPPED')
    return new CommandError(
      EXIT.temporary,
      `${label(admin)} was stopped or replaced meanwhile`,
      'If another process serves now, repeat the command',
      options
    )
  if (remote.code !== 'ERR_PASSFD_SUPERVISOR_STATE')
    return new CommandError(EXIT.failed, remote.message, undefined, options)
  // Its message is for programs that have made a Supervisor
  const phase = await statusOf(admin).then(
    ({ phase }) => phase,
    () => 'stopped' as const
  )
  if (phase === 'lame duck' || phase === 'stopping' || phase === 'stopped')
    return new CommandError(EXIT.temporary, `${label(admin)} stops, so it can't do this any more`, undefined, options)
  const what = `${label(admin)} can't do this yet, because its first workers are still starting`
  return new CommandError(EXIT.temporary, what, 'Repeat the command when they are ready', options)
}

function label({ name, path }: Admin): string {
  return name ?? path
}

function sizeOf(wanted: string): number {
  try {
    const workers = readWorkers(wanted)
    return workers === 'max' ? availableParallelism() : workers
  } catch (error) {
    if (!(error instanceof Expected)) throw error
    throw new CommandError(EXIT.usage, `The number of workers is "${wanted}"`, `It must be ${error.message}`)
  }
}
