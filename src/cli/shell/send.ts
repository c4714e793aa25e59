/** `passfd send`: opens descriptors, and sends them with a value to a program at a Unix socket. */
import { setTimeout as later } from 'node:timers/promises'
import { type Command, InvalidArgumentError } from 'commander'
import { type Address, type Channel, connect, type Descriptor, type PassfdError, type Returned } from '../../index.ts'
import { CommandError, EXIT } from '../exit.ts'
import { printableJson } from '../printable.ts'
import { examples, Ui } from '../ui.ts'
import { addressOf, addressText } from './address.ts'
import { fdOpening, fileOpening, listenOpening, type Opening, readValue } from './openings.ts'
import { describeAll } from './received.ts'
import { arrivedIn, plain, withDescriptors } from './values.ts'

/** The time to the next try if the other program has no room, or is not there, in ms. */
const PAUSE = 100

/** How a descriptor is made, and its name. */
interface Source extends Opening {
  readonly name: string
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
      sources(fileOpening)
    )
    .option('--fd <name=number>', 'send a descriptor that passfd has inherited', sources(fdOpening))
    .option(
      '--listen <name=address>',
      'send a listening socket: PORT, HOST:PORT, or a path with a "/"',
      sources(listenOpening)
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
  const value = options.value === undefined ? {} : await readValue(options.value, fd, ui)
  const timeout = options.timeout * 1000
  const opened = new Map<string, Descriptor>()
  let channel: Channel | undefined
  let isHandedOver = false
  try {
    // Before this process opens descriptors that could be taken for inherited ones
    for (const { name, open } of fd) opened.set(name, await open())
    // Before the others, so that nothing is created or truncated if nobody is there
    const connecting = connectTo(addressOf(socket), socket, timeout, options.wait === true)
    channel = await ui.progress(`waiting for ${socket}`, connecting)
    for (const { name, open } of all) if (!opened.has(name)) opened.set(name, await open())
    const message = withDescriptors(value, new Map(all.map(({ name }) => [name, opened.get(name)!])))
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
    channel?.destroy()
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

function seconds(given: string): number {
  const value = Number(given)
  if (!(value > 0 && value <= 2_000_000)) throw new InvalidArgumentError('It is a number of seconds.')
  return value
}

/** An option that may be given several times, each time as name=value. */
function sources(make: (value: string) => Opening): (given: string, before?: Source[]) => Source[] {
  return (given, before = []) => {
    const [, name, value] = /^([^=]+)=(.+)$/s.exec(given) ?? []
    if (name === undefined || name === '__proto__') throw new InvalidArgumentError('It is name=value.')
    return [...before, { name, ...make(value!) }]
  }
}
