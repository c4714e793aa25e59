/** `passfd send`: opens descriptors, and sends them with a value to a program at a Unix socket. */
import { lstatSync, readlinkSync, rmSync, statSync } from 'node:fs'
import { text } from 'node:stream/consumers'
import { setTimeout as later } from 'node:timers/promises'
import { type Command, InvalidArgumentError } from 'commander'
import {
  type Address,
  type BindSpec,
  type Channel,
  connect,
  Descriptor,
  type PassfdError,
  type Returned
} from '../../index.ts'
import { CommandError, EXIT } from '../exit.ts'
import { printableJson } from '../printable.ts'
import { addressOf as bindSpecOf } from '../serve/read.ts'
import { examples, Ui } from '../ui.ts'
import { addressOf, addressText } from './address.ts'
import { describeAll } from './received.ts'
import { arrivedIn, plain, withDescriptors } from './values.ts'

/** The time to the next try if the other program has no room, or is not there, in ms. */
const PAUSE = 100

/** How a descriptor is made, and its name. */
interface Source {
  name: string
  open(): Promise<Descriptor>
  isStdin?: boolean
  /** Removes the file that it has made, if nothing was sent. */
  undo?(): void
}

interface SendOptions {
  value?: string
  file?: Source[]
  fd?: Source[]
  listen?: Source[]
  request?: boolean
  wait?: boolean
  timeout: number
}

export function registerSend(program: Command): void {
  const send = program
    .command('send')
    .summary('Sends open files and sockets, with a value, to a program at a Unix socket.')
    .description(
      'Sends one message with descriptors to the program that listens at a Unix socket, and waits until that has taken them. The message is an object: the value, and each descriptor as a property under its name. To put a descriptor elsewhere write {"$descriptor": "name"} there.'
    )
    .argument('<socket>', 'a path, or "@" and an abstract name')
    .option('--value <json>', 'the value of the message; "-": read it from stdin (default: {})')
    .option(
      '--file <name=path[:flags]>',
      'send an open file; flags: r, r+, w, w+, a, a+, wx, ax (default: r)',
      sources(fileSource)
    )
    .option('--fd <name=number>', 'send a descriptor that passfd has inherited', sources(fdSource))
    .option(
      '--listen <name=address>',
      'send a listening socket: PORT, HOST:PORT, or a path with a "/"',
      sources(listenSource)
    )
    .option('--request', 'wait for the answer, and print it as JSON')
    .option('--wait', 'if nobody listens there yet, wait for it')
    .option('--timeout <seconds>', 'the longest wait for the other program', seconds, 30)
    .option('--json', 'print JSON')
    .action(async (socket: string, options: SendOptions) => runSend(socket, options, new Ui(send)))
  examples(
    send,
    ['passfd send /run/app.sock --file log=/var/log/app.log:a', 'an open log file'],
    ['passfd send ./app.sock --value \'{"job": 7}\' --fd in=0 <data.csv', 'a value, and what is stdin here'],
    ['passfd send ./app.sock --listen http=127.0.0.1:8080', 'a listening socket, which that program serves'],
    ['passfd send ./app.sock --value \'"status"\' --request', 'a question; prints the answer']
  )
}

async function runSend(socket: string, options: SendOptions, ui: Ui): Promise<void> {
  const { file = [], fd = [], listen = [] } = options
  const all = [...file, ...fd, ...listen]
  const twice = all.find(({ name }, index) => all.findIndex(one => one.name === name) !== index)
  if (twice !== undefined) throw new CommandError(EXIT.usage, `Two descriptors have the name "${twice.name}"`)
  const value = await readValue(options, ui)
  const timeout = options.timeout * 1000
  // First, so that nothing is created or truncated if nobody is there
  const connecting = connectTo(addressOf(socket), socket, timeout, options.wait === true)
  const channel = await ui.progress(`waiting for ${socket}`, connecting)
  const opened = new Map<string, Descriptor>()
  let isHandedOver = false
  try {
    for (const { name, open } of all) opened.set(name, await open())
    const message = withDescriptors(value, opened)
    const listeners = listen.map(({ name }) => [name, addressText(opened.get(name)!)] as const)
    isHandedOver = true
    const transferring = transfer(channel, message, options.request === true, timeout)
    const result = await ui.progress(`waiting for ${socket}`, transferring)
    for (const [name, address] of listeners) if (!ui.json) ui.note(`passfd: ${name} listens on ${address}`)
    if (options.request === true) ui.print(printableJson(result))
    else if (ui.json)
      ui.print(
        JSON.stringify({
          pid: channel.peer.pid,
          descriptors: [...opened.keys()],
          ...(listeners.length === 0 ? {} : { listeners: Object.fromEntries(listeners) })
        })
      )
  } finally {
    channel.destroy()
    for (const descriptor of opened.values()) descriptor[Symbol.dispose]()
    if (!isHandedOver) for (const { undo } of all) undo?.()
  }
}

/** Resolves to the answer as JSON can hold it; without a request when the peer has taken the descriptors. */
async function transfer(channel: Channel, message: unknown, isRequest: boolean, timeout: number): Promise<unknown> {
  let returned: Returned | undefined
  channel.on('returned', one => {
    returned = one
  })
  if (isRequest) {
    const answer = await channel.request(message, { descriptors: 253, timeout })
    return printableAnswer(answer)
  }
  await channel.send(message)
  await channel.close()
  const error = await channel.closed
  if (returned !== undefined)
    throw new CommandError(
      EXIT.unavailable,
      returned.state === 'unsent'
        ? 'The message was not sent'
        : 'The other program has not confirmed the descriptors. It may have them all the same',
      error === undefined ? 'Try again, or raise --timeout' : error.message.replace(/\.$/, ''),
      { code: error?.code ?? 'ERR_PASSFD_CLOSED', cause: error }
    )
  if (error !== undefined) throw error
  return undefined
}

/** Describes the descriptors of an answer, and closes them. */
async function printableAnswer(answer: unknown): Promise<unknown> {
  const arrived = arrivedIn(answer)
  try {
    const described = await describeAll(arrived.values())
    return plain(answer, arrived, one => described.get(one)!)
  } finally {
    for (const { descriptor } of arrived.values()) descriptor[Symbol.dispose]()
  }
}

/** Tries again while the other program has no room for one more channel. `wait`: also while nobody listens. */
async function connectTo(address: Address, socket: string, timeout: number, wait: boolean): Promise<Channel> {
  const deadline = performance.now() + timeout
  for (;;) {
    const handshakeTimeout = Math.max(1, Math.ceil(deadline - performance.now()))
    try {
      return await connect(address, { handshakeTimeout, closeTimeout: timeout, requestTimeout: timeout })
    } catch (cause) {
      const { code, remote } = cause as NodeJS.ErrnoException & Pick<PassfdError, 'remote'>
      const isNobody = code === 'ENOENT' || code === 'ECONNREFUSED'
      const isOver = performance.now() + PAUSE > deadline
      if (isNobody && (!wait || isOver)) {
        const remedy = `Start the program that receives${wait ? '' : ', or add --wait'}`
        throw new CommandError(EXIT.unavailable, `Nobody listens at ${socket}`, remedy, { code, cause })
      }
      if (isOver || (!isNobody && remote?.code !== 'ERR_PASSFD_BUSY')) throw cause
      await later(PAUSE)
    }
  }
}

async function readValue({ value, fd = [] }: SendOptions, ui: Ui): Promise<unknown> {
  if (value === undefined) return {}
  if (value === '-' && fd.some(({ isStdin }) => isStdin))
    throw new CommandError(EXIT.usage, 'stdin can not be both the value and a descriptor')
  const json = value === '-' ? await text(ui.streams.stdin) : value
  try {
    return JSON.parse(json)
  } catch (cause) {
    throw new CommandError(EXIT.data, `The value is not JSON: ${(cause as Error).message}`, 'Quote it for the shell', {
      cause
    })
  }
}

function seconds(given: string): number {
  const value = Number(given)
  if (!(value > 0 && value <= 2_000_000)) throw new InvalidArgumentError('It is a number of seconds.')
  return value
}

/** An option that may be given several times, each time as name=value. */
function sources(make: (name: string, value: string) => Source): (given: string, before?: Source[]) => Source[] {
  return (given, before = []) => {
    const [, name, value] = /^([^=]+)=(.+)$/s.exec(given) ?? []
    if (name === undefined || name === '__proto__') throw new InvalidArgumentError('It is name=value.')
    return [...before, make(name, value!)]
  }
}

const FLAGS = /:(r|r\+|rs|rs\+|w|w\+|wx|wx\+|a|a\+|ax|ax\+|as|as\+)$/

function fileSource(name: string, value: string): Source {
  const [, flags = 'r'] = FLAGS.exec(value) ?? []
  const path = value.replace(FLAGS, '')
  return { name, open: () => Descriptor.open(path, flags) }
}

function fdSource(name: string, value: string): Source {
  const fd = Number(value)
  if (!/^\d+$/.test(value) || fd > 0x7fffffff) throw new InvalidArgumentError('A descriptor is a number.')
  return {
    name,
    isStdin: fd === 0,
    open: async () => {
      checkInherited(fd)
      return Descriptor.from(fd)
    }
  }
}

/** Node opens some descriptors for itself, which an inherited one can't be told from by its number. */
function checkInherited(fd: number): void {
  let link = ''
  try {
    link = readlinkSync(`/proc/self/fd/${fd}`)
  } catch (cause) {
    throw notInherited(fd, `${fd} is not open`, cause)
  }
  if (/^anon_inode:(\[eventpoll\]|\[eventfd\]|\[io_uring\])$/.test(link))
    throw notInherited(fd, `${fd} is passfd's own`)
  if (fd < 3 || !link.startsWith('pipe:')) return
  // libuv holds both ends of a pipe to itself
  for (let other = 3; other < 64; other++) {
    try {
      if (other !== fd && readlinkSync(`/proc/self/fd/${other}`) === link)
        throw notInherited(fd, `${fd} is passfd's own`)
    } catch (error) {
      if (error instanceof CommandError) throw error
    }
  }
}

function notInherited(fd: number, why: string, cause?: unknown): CommandError {
  const remedy = `Redirect it in the shell, as in ${fd}<file`
  return new CommandError(EXIT.noInput, `No descriptor ${fd} was inherited: ${why}`, remedy, { code: 'EBADF', cause })
}

function listenSource(name: string, value: string): Source {
  const spec = specOf(value)
  const path = 'path' in spec ? spec.path : undefined
  let file: number | undefined
  return {
    name,
    open: async () => {
      const descriptor = await Descriptor.bind(spec)
      if (path !== undefined) file = statSync(path).ino
      return descriptor
    },
    ...(path === undefined
      ? {}
      : {
          undo: () => {
            if (file !== undefined && lstatSync(path, { throwIfNoEntry: false })?.ino === file) rmSync(path)
          }
        })
  }
}

function specOf(value: string): Exclude<BindSpec, Descriptor> {
  try {
    return bindSpecOf(value) as Exclude<BindSpec, Descriptor>
  } catch (error) {
    throw new InvalidArgumentError(`It is ${(error as Error).message}.`)
  }
}
