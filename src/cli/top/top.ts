/** `passfd top`: a supervisor and its workers, as they are now. */
import type { ReadStream, WriteStream } from 'node:tty'
import type { Command } from 'commander'
import { connectAdmin } from '../admin-client.ts'
import { CommandError, EXIT } from '../exit.ts'
import { examples, Ui } from '../ui.ts'
import { jsonOf } from './json.ts'
import { Live } from './live.ts'
import { Monitor } from './monitor.ts'
import { drawOnce, LOOKS } from './picture.ts'
import { type View, viewOf } from './view.ts'

/** From sample to sample, in ms. */
const INTERVAL = 1000
/** Between the two samples of `--once`: longer than the heartbeat in which workers report, unless that was changed. */
const ONCE = 1200

export function register(program: Command): void {
  const command = program
    .command('top')
    .description('Shows the workers of a running server, live: requests, event-loop lag, CPU, memory, restarts.')
    .argument('[server]', 'its name, or the path of its admin socket (default: the server of this folder)')
    .option('--once', 'print one picture after a second')
    .option('--json', 'print a line of JSON each second; with --once a single one')
    .addHelpText(
      'after',
      `
Keys:
  r          reload: replace every worker by a new one
  + -        one worker more, or fewer
  s          stop the server, after a question
  ↑ ↓        choose a worker
  enter      show this worker in detail; digits show the worker of that slot
  esc        back to all workers
  q          quit

CPU is per cent of one core. LAG is the longest delay of the event loop since the last two heartbeats.`
    )
    .action((target: string | undefined) => top(target, new Ui(command), command.opts<{ once?: boolean }>()))
  examples(
    command,
    ['passfd top', 'the server of this folder'],
    ['passfd top shop', 'the server of this name'],
    ['passfd top --once ./admin.sock', 'a supervisor with the option admin, once'],
    ['passfd top --json shop', 'for another program']
  )
}

async function top(target: string | undefined, ui: Ui, { once = false }: { once?: boolean }): Promise<void> {
  const { stdin, stdout, env } = ui.streams
  const live = !once && !ui.json
  if (live) checkTerminal(stdin.isTTY === true && stdout.isTTY === true, env)
  const { name, path, channel } = await connectAdmin(target)
  const who = name ?? path
  const monitor = new Monitor(path, channel, once ? ONCE : INTERVAL)
  if (live) {
    const terminal = { stdin: stdin as ReadStream, stdout: stdout as WriteStream, colors: ui.out }
    const signal = await new Live(who, monitor, terminal).run()
    if (signal !== undefined) process.kill(process.pid, signal) // a shell expects that
  } else if (once) await printOnce(who, monitor, ui)
  else await printLines(who, monitor, ui)
}

function checkTerminal(isTerminal: boolean, env: Record<string, string | undefined>): void {
  const remedy = 'Use --once for one picture, or --json'
  if (!isTerminal) throw new CommandError(EXIT.usage, 'The live view needs a terminal as its input and output', remedy)
  if (env.TERM === 'dumb')
    throw new CommandError(EXIT.usage, 'This terminal can not move its cursor (TERM=dumb)', remedy)
}

async function printOnce(target: string, monitor: Monitor, ui: Ui): Promise<void> {
  let view: View | undefined
  let failure: Error | undefined
  monitor.on('sample', sample => {
    view = viewOf(view, sample, 0)
  })
  monitor.on('lost', error => {
    failure = error
    monitor.close()
  })
  try {
    await ui.progress(`measuring ${target}`, monitor.run(2))
  } finally {
    monitor.close()
  }
  if (failure !== undefined) throw failure
  const picture = { target, view, lost: undefined, happenings: [], message: undefined, looks: LOOKS }
  const { isTTY, columns = 0 } = ui.streams.stdout
  ui.result(jsonOf(target, view!), drawOnce(picture, isTTY === true ? columns : 0, ui.out).join('\n'))
}

/** Until what reads them has ended. */
async function printLines(target: string, monitor: Monitor, ui: Ui): Promise<void> {
  let view: View | undefined
  monitor.on('sample', sample => {
    view = viewOf(view, sample)
    ui.print(JSON.stringify(jsonOf(target, view)))
  })
  monitor.on('lost', error => {
    const { code, message } = error as NodeJS.ErrnoException
    ui.print(JSON.stringify({ time: new Date().toISOString(), target, error: { code, message } }))
  })
  const onError = (): void => monitor.close()
  const output = ui.streams.stdout as Partial<NodeJS.EventEmitter>
  output.on?.('error', onError)
  try {
    await monitor.run()
  } finally {
    output.off?.('error', onError)
    monitor.close()
  }
}
