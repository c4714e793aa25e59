/** `passfd store put`: opens descriptors, and puts them into the store. */
import { type Command, Option } from 'commander'
import type { Descriptor } from '../../index.ts'
import type { PutOptions } from '../../store/index.ts'
import { CommandError, EXIT } from '../exit.ts'
import { time } from '../serve/read.ts'
import { addressText } from '../shell/address.ts'
import { fdOpening, fileOpening, listenOpening, type Opening, readValue } from '../shell/openings.ts'
import { examples, Ui } from '../ui.ts'
import { addLinkOptions, checkEntryName, reader, StoreLink } from './link.ts'
import { kindsText } from './list.ts'

/** With these the store has taken nothing. After other errors it may have. */
const REFUSALS: readonly (string | undefined)[] = ['EXISTS', 'LEASED', 'FULL', 'DENIED', 'POLL', 'REQUEST'].map(
  code => `ERR_PASSFD_STORE_${code}`
)

/** One of `--listen`, `--file` and `--fd`, in the order of the command line. */
interface Given extends Opening {
  readonly place: number
  readonly kind: 'listen' | 'file' | 'fd'
}

interface Options {
  listen?: Given[]
  file?: Given[]
  fd?: Given[]
  value?: string
  ttl?: number
  poll?: boolean
  replace?: boolean
  owner?: number | string
}

export function registerPut(store: Command): void {
  let places = 0
  const given =
    (kind: Given['kind'], open: (text: string) => Opening) =>
    (text: string, before: Given[] = []): Given[] => [...before, { ...open(text), place: places++, kind }]
  const put = store
    .command('put')
    .description(
      'Puts open files and sockets into the store under a name. An entry has one or more descriptors, in the order of the command line.'
    )
    .argument('<entry>', 'the name: 1 to 255 printable ASCII characters without ":" and "*"')
    .option(
      '--listen <address>',
      'a listening socket: PORT, HOST:PORT, or a path with a "/"',
      given('listen', listenOpening)
    )
    .option(
      '--file <path[:flags]>',
      'an open file; flags: r, r+, w, w+, a, a+, wx, ax (default: r)',
      given('file', fileOpening)
    )
    .option('--fd <number>', 'a descriptor that passfd has inherited', given('fd', fdOpening))
    .option('--value <json>', 'a value beside the descriptors; "-": read it from stdin')
    .option('--ttl <time>', 'remove the entry after this time: 10m', reader(time(1, Number.MAX_SAFE_INTEGER)))
    .addOption(new Option('--poll', 'remove the entry when the other end hangs up (default: of connected sockets)'))
    .addOption(new Option('--no-poll', 'keep the entry when the other end hangs up'))
    .option('--replace', 'replace an entry of this name')
    .option('--json', 'print JSON')
    .action((name: string, options: Options) => runPut(name, options, put))
  addLinkOptions(put, 'put it under a name of this user, if the rules of the store allow that')
  examples(
    put,
    ['passfd store put http --listen 127.0.0.1:8080', 'a listening socket: clients wait in it until a server accepts'],
    ['passfd store put log --file /var/log/app.log:a', 'an open log file'],
    ['passfd store put job --fd 0 --value \'{"id": 7}\' --ttl 1h <data.csv', 'what is stdin here, for an hour']
  )
}

async function runPut(name: string, options: Options, command: Command): Promise<void> {
  const ui = new Ui(command)
  checkEntryName(name)
  const { listen = [], file = [], fd = [], value: json, owner } = options
  const all = [...listen, ...file, ...fd].sort((one, other) => one.place - other.place)
  if (all.length === 0) throw new CommandError(EXIT.usage, 'No descriptor is named', 'Add --listen, --file or --fd')
  const value = json === undefined ? undefined : await readValue(json, all, ui)
  const opened = new Map<Given, Descriptor>()
  let mayHaveIt = false
  try {
    // Before this process opens a descriptor that could be taken for an inherited one
    for (const one of fd) opened.set(one, await one.open())
    await using link = await StoreLink.open(command, ui)
    const whose = owner === undefined ? {} : { owner }
    // So that nothing is bound, created or truncated in vain
    if (!options.replace) await checkFree(link, name, whose)
    for (const one of all) if (!opened.has(one)) opened.set(one, await one.open())
    const descriptors = all.map(one => opened.get(one)!)
    const kinds = descriptors.map(({ kind }) => kind)
    const listeners = listen.map(one => addressText(opened.get(one)!))
    mayHaveIt = true
    const { entry } = await link.ask(link.client.put(name, descriptors, putOptions(options, value)))
    if (ui.json) ui.print(JSON.stringify({ entry, name, kinds, ...(listeners.length === 0 ? {} : { listeners }) }))
    else
      ui.note(
        `passfd: the store has ${name}: ${kindsText(kinds)}${listeners.length === 0 ? '' : ` on ${listeners.join(', ')}`}`
      )
  } catch (error) {
    if (!mayHaveIt || REFUSALS.includes((error as NodeJS.ErrnoException).code)) for (const { undo } of all) undo?.()
    throw error
  } finally {
    for (const descriptor of opened.values()) descriptor[Symbol.dispose]()
  }
}

function putOptions({ ttl, poll, replace, owner }: Options, value: unknown): PutOptions {
  return {
    ...(value === undefined ? {} : { value }),
    ...(ttl === undefined ? {} : { ttl }),
    ...(poll === undefined ? {} : { poll }),
    ...(replace === undefined ? {} : { replace }),
    ...(owner === undefined ? {} : { owner })
  }
}

/** Who may not read the name gets the store's own answer later. */
async function checkFree(link: StoreLink, name: string, whose: { owner?: number | string }): Promise<void> {
  const entries = await link.ask(link.client.list({ names: name, ...whose })).catch(error => {
    if (error.code === 'ERR_PASSFD_STORE_DENIED') return []
    throw error
  })
  const uid = process.geteuid!()
  if (whose.owner === undefined ? entries.some(({ owner }) => owner === uid) : entries.length > 0)
    throw new CommandError(
      EXIT.cantCreate,
      `The store has an entry named ${name} already`,
      'Choose another name, or replace it with --replace',
      { code: 'ERR_PASSFD_STORE_EXISTS' }
    )
}
