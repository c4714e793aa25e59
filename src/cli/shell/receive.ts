/** `passfd receive`: listens at a Unix socket, and prints, saves or hands on the descriptors that arrive. */
import { type Command, InvalidArgumentError, Option } from 'commander'
import { type ChannelServer, listen, type Message } from '../../index.ts'
import { CommandError, EXIT, ExitWith, failureOf } from '../exit.ts'
import { printable, printableJson } from '../printable.ts'
import { examples, Ui } from '../ui.ts'
import { addressOf } from './address.ts'
import { commandOf } from './holders.ts'
import { describeAll } from './received.ts'
import { keepArguments, runWith } from './run-with.ts'
import { Folder } from './save.ts'
import { type Arrived, arrivedIn, plain } from './values.ts'

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

interface ReceiveOptions {
  print?: boolean
  save?: string
  force?: boolean
  exec?: string[]
  count?: number
  forever?: boolean
  mode?: number
}

/** Handles one message. Resolves to the answer, if it is a request. What it throws is the command's failure, and the request's. */
type Work = (
  message: Message,
  arrived: ReadonlyMap<object, Arrived>,
  signal: AbortSignal
) => Promise<{ answer: object; exitCode?: number }>

export function registerReceive(program: Command): void {
  const receive = program
    .command('receive')
    .summary('Receives open files and sockets at a Unix socket: prints, saves, or hands them to a command.')
    .description(
      'Listens at a Unix socket for messages with descriptors, and removes the socket at its end. By default it prints one message and ends. It closes what it does not hand on.'
    )
    .argument('<socket>', 'a path, or "@" and an abstract name')
    .addOption(
      new Option('--print', 'print each value as JSON, with descriptions of its descriptors (default)').conflicts([
        'save',
        'exec'
      ])
    )
    .addOption(
      new Option('--save <folder>', 'copy files and the bytes of pipes into files in this folder').conflicts('exec')
    )
    .option('--force', 'with --save: replace files that exist')
    .option(
      '--exec <command...>',
      'run a command, with all that follows as its arguments: it gets the descriptors from 3 on (LISTEN_FDS, LISTEN_FDNAMES) and the value as PASSFD_VALUE'
    )
    .addOption(
      new Option('--count <number>', 'end after so many messages').argParser(positive).default(1).conflicts('forever')
    )
    .option('--forever', 'end at SIGINT, SIGTERM or SIGHUP only')
    .option(
      '--mode <mode>',
      'the mode of the socket file, octal. Who may connect by that may send (default: 0600, you and root)',
      fileMode
    )
    .option('--json', 'print one line for each message: { from, value }')
    .action(async (socket: string, options: ReceiveOptions) => runReceive(socket, options, new Ui(receive)))
  keepArguments(receive, ['--exec'])
  examples(
    receive,
    ['passfd receive ./app.sock', 'print the next message'],
    ['passfd receive ./app.sock --save inbox --count 10', 'copy the files of ten messages'],
    ["passfd receive ./app.sock --exec sh -c 'cat <&3'", 'a command that reads the first descriptor'],
    ['passfd receive ./app.sock --forever --exec ./worker.sh', 'a command for each message']
  )
}

async function runReceive(socket: string, options: ReceiveOptions, ui: Ui): Promise<void> {
  if (options.force && options.save === undefined)
    throw new CommandError(EXIT.usage, '--force is for --save', 'Add --save, or leave --force out')
  using folder = options.save === undefined ? undefined : Folder.open(options.save)
  const work = workOf(options, folder, ui)
  const { mode } = options
  const address = addressOf(socket)
  const server = await listen(address, {
    ...(mode === undefined ? {} : { mode }),
    // The mode of the file decides. An abstract name has none
    ...(mode !== undefined && (mode & 0o022) !== 0 && typeof address === 'object' && 'path' in address
      ? { authorize: () => true }
      : {}),
    // What is taken is confirmed, so no more is taken than will be handled: of a channel one message after the other, and of channels as many
    // as there may be messages. Others are refused, and may try again
    window: 1,
    ...(options.forever ? {} : { maxConnections: options.count! })
  })
  const receiver = new Receiver(server, work, options.forever === true ? Number.POSITIVE_INFINITY : options.count!, ui)
  await receiver.run(socket)
}

/** Takes one message after the other, of all channels, until it has as many as it needs. */
class Receiver {
  readonly #server: ChannelServer
  readonly #work: Work
  readonly #ui: Ui
  #left: number
  #before: Promise<unknown> = Promise.resolve()
  #exitCode = 0
  #end!: () => void
  readonly #stop = new AbortController()

  constructor(server: ChannelServer, work: Work, count: number, ui: Ui) {
    this.#server = server
    this.#work = work
    this.#left = count
    this.#ui = ui
  }

  /** Resolves at the end, or throws an ExitWith. */
  async run(socket: string): Promise<void> {
    const ended = new Promise<void>(resolve => {
      this.#end = resolve
    })
    const stop = (exitCode: number): void => {
      this.#exitCode = exitCode
      this.#stop.abort(new CommandError(EXIT.temporary, 'The receiver was stopped', 'Send it again'))
      this.#end()
    }
    const onSignal = (_: NodeJS.Signals, number: number): void => stop(128 + number)
    for (const signal of SIGNALS) process.on(signal, onSignal)
    // `passfd receive … | head`
    const cut = (): void => stop(EXIT.io)
    const stdout = this.#ui.streams.stdout as Partial<NodeJS.WriteStream>
    stdout.once?.('error', cut)
    this.#ui.note(`passfd: waiting at ${socket}`)
    try {
      this.#server.on('refused', ({ pid, uid }, error) =>
        this.#ui.note(`passfd: process ${pid} of user ${uid} was refused: ${printable(error.message)}`)
      )
      this.#server.serve(message => this.#take(message), { concurrency: 1, onError: () => {} })
      await Promise.race([ended, this.#server.closed])
      await this.#before // with an answer, if it is a request
      await this.#server.close()
    } finally {
      for (const signal of SIGNALS) process.off(signal, onSignal)
      stdout.off?.('error', cut)
    }
    if (this.#exitCode !== 0) throw new ExitWith(this.#exitCode)
  }

  #take(message: Message): Promise<object> {
    const done = this.#before.then(() => this.#handle(message))
    this.#before = done.catch(() => {})
    return done
  }

  async #handle(message: Message): Promise<object> {
    const { pid } = message.channel.peer
    if (this.#left === 0 || this.#stop.signal.aborted) {
      this.#ui.note(`passfd: a further message of process ${pid} was not handled; its descriptors are closed.`)
      throw new Error('The receiver has as many messages as it needs.')
    }
    this.#left--
    try {
      const { answer, exitCode = 0 } = await this.#work(message, arrivedIn(message.value), this.#stop.signal)
      if (exitCode !== 0) this.#failed(exitCode)
      return answer
    } catch (error) {
      const failure = failureOf(error)
      this.#ui.note(`passfd: the message of process ${pid}: ${failure.message}`)
      this.#failed(failure.exitCode)
      throw error
    } finally {
      if (this.#left === 0) this.#end()
    }
  }

  #failed(exitCode: number): void {
    if (!this.#stop.signal.aborted) this.#exitCode = exitCode
  }
}

function workOf({ force = false, exec }: ReceiveOptions, folder: Folder | undefined, ui: Ui): Work {
  const print = (message: Message, value: unknown): void => {
    const { pid, uid } = message.channel.peer
    const from = { pid, uid, command: commandOf(pid) }
    if (ui.json) ui.print(printableJson({ from, value }))
    else ui.print(printableJson(value, ui.streams.stdout.isTTY ? 2 : undefined))
  }
  if (exec !== undefined)
    return async ({ value }, arrived) => {
      const { exitCode } = await runWith(exec, value, arrived, ui)
      return { answer: { exitCode }, exitCode }
    }
  if (folder !== undefined)
    return async (message, arrived, signal) => {
      // While they are open
      const described = await describeAll(arrived.values())
      const saved = await folder.save([...arrived.values()], force, signal)
      print(
        message,
        plain(message.value, arrived, one => ({ ...described.get(one), ...saved.get(one) }))
      )
      for (const [{ name }, { closed }] of saved)
        if (closed !== undefined && !ui.json) ui.note(`passfd: ${printable(name)} was closed: ${closed}.`)
      return { answer: Object.fromEntries([...saved].map(([{ name }, { saved: file = null }]) => [name, file])) }
    }
  return async (message, arrived) => {
    const described = await describeAll(arrived.values())
    print(
      message,
      plain(message.value, arrived, one => described.get(one)!)
    )
    return { answer: { received: [...arrived.values()].map(({ name }) => name) } }
  }
}

function positive(given: string): number {
  const value = Number(given)
  if (!Number.isSafeInteger(value) || value < 1) throw new InvalidArgumentError('It is a number from 1 on.')
  return value
}

function fileMode(given: string): number {
  if (!/^0?[0-7]{3}$/.test(given)) throw new InvalidArgumentError('It is an octal number such as 0660.')
  return Number.parseInt(given, 8)
}
