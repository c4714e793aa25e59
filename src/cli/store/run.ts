/** `passfd store copy` and `take`: run a command with what the store holds. */
import type { Command } from 'commander'
import type { Descriptor } from '../../index.ts'
import { collectOrphans } from '../../os/orphans.ts'
import type { StoredCopy, StoreLease } from '../../store/index.ts'
import { CommandError, EXIT, ExitWith } from '../exit.ts'
import { printableJson } from '../printable.ts'
import { describeAll } from '../shell/received.ts'
import { keepArguments, type RunOptions, runWith } from '../shell/run-with.ts'
import { type Arrived, differing, plain } from '../shell/values.ts'
import { examples, Ui } from '../ui.ts'
import { addLinkOptions, checkEntryName, StoreLink } from './link.ts'

/** A service manager, a shell or a person sends these to passfd, and means the command. */
const PASSED = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const
/** A shell ends its loop, and a service manager takes an end for an orderly one, only if passfd itself ends by such a signal. */
const ENDS_BY: readonly (string | undefined)[] = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGPIPE']

interface Options {
  exec?: string[]
  owner?: number | string
}

export function registerCopy(store: Command): void {
  const copy = store
    .command('copy')
    .summary('Runs a command with copies of what the store holds, or shows that.')
    .description(
      'Runs a command with copies of the descriptors of an entry, which stays in the store. Without a command it shows the entry.'
    )
    .option('--json', 'print one line for each entry')
    .action((names: string[], options: Options) => runCopy(names, options, copy))
  addCommand(copy)
  examples(
    copy,
    ['passfd store copy http', 'what it is'],
    ['passfd store copy http -- node server.js', 'a server whose clients wait in the store while it is started again'],
    ['passfd store copy http log --exec ./server.sh', 'with the descriptors of two entries']
  )
}

export function registerTake(store: Command): void {
  const take = store
    .command('take')
    .summary('Runs a command with what the store holds, and removes that from the store.')
    .description(
      'Takes entries out of the store and runs a command with their descriptors. If the command can not be started, the entries are in the store again.'
    )
    .option('--json', 'print an error as JSON')
    .action((names: string[], options: Options) => runTake(names, options, take))
  addCommand(take)
  examples(
    take,
    ["passfd store take job -- sh -c 'wc -l <&3'", 'a command that reads what was put'],
    ['passfd store take http --exec node server.js', 'a server that is the only one with this listener']
  )
}

function addCommand(command: Command): void {
  command
    .argument('<entry...>', 'names in the store')
    .usage('[options] <entry...> [-- command...]')
    .option(
      '--exec <command...>',
      'run a command, with all that follows as its arguments, as behind "--": it gets the descriptors from 3 on (LISTEN_FDS, LISTEN_FDNAMES) and the value as PASSFD_VALUE'
    )
  addLinkOptions(command, 'of this user, if the rules of the store allow that')
  keepArguments(command, ['--', '--exec'])
}

/** An entry whose descriptors this process owns. */
type Entry = StoredCopy | StoreLease

async function runCopy(names: readonly string[], { exec, owner }: Options, command: Command): Promise<void> {
  const ui = new Ui(command)
  const whose = owner === undefined ? {} : { owner }
  const entries = await open(names, command, ui, async ({ client }, name) => client.copy(name, whose))
  try {
    if (exec === undefined) return await show(entries, ui)
    await run(exec, entries, ui, async () => closeAll(entries))
  } finally {
    closeAll(entries)
  }
}

/** The copies of the entries. The store is left. */
async function open(
  names: readonly string[],
  command: Command,
  ui: Ui,
  get: (link: StoreLink, name: string) => Promise<StoredCopy | undefined>
): Promise<StoredCopy[]> {
  checkNames(names)
  await using link = await StoreLink.open(command, ui)
  const entries: StoredCopy[] = []
  try {
    for (const name of names) entries.push(found(await link.ask(get(link, name)), name, link))
    return entries
  } catch (error) {
    closeAll(entries)
    throw error
  }
}

async function runTake(names: readonly string[], { exec, owner }: Options, command: Command): Promise<void> {
  const ui = new Ui(command)
  if (exec === undefined)
    throw new CommandError(
      EXIT.usage,
      'No command is named',
      'Write it behind "--"; "passfd store copy" shows an entry'
    )
  checkNames(names)
  await using link = await StoreLink.open(command, ui)
  const whose = owner === undefined ? {} : { owner }
  const leases: StoreLease[] = []
  let isSettled = false
  try {
    for (const name of names) leases.push(found(await link.ask(link.client.take(name, whose)), name, link))
    await run(exec, leases, ui, async started => {
      if (started) for (const lease of leases) await link.ask(lease.keep())
      else await giveBack(leases, link)
      isSettled = true
      closeAll(leases)
      await link.client.close()
      if (!started)
        ui.note(`passfd: ${names.join(', ')} ${names.length === 1 ? 'is' : 'are'} in the store again: no command runs.`)
    })
  } finally {
    // The store has what was taken again when this client ends
    if (!isSettled) await giveBack(leases, link).catch(() => {})
    closeAll(leases)
  }
}

async function giveBack(leases: readonly StoreLease[], link: StoreLink): Promise<void> {
  for (const lease of leases) await link.ask(lease[Symbol.asyncDispose]())
}

/** Runs the command, and ends this process as the command has ended. */
async function run(
  command: readonly string[],
  entries: readonly Entry[],
  ui: Ui,
  onStart: NonNullable<RunOptions['onStart']>
): Promise<void> {
  const values = entries.map(({ name, value }) => [name, value ?? null] as const)
  const value = values.length === 1 ? values[0]![1] : Object.fromEntries(values)
  // As PID 1 of a container
  const endCollecting = collectOrphans()
  const { exitCode, signal } = await runWith(command, value, named(entries), ui, { signals: PASSED, onStart }).finally(
    endCollecting
  )
  if (exitCode !== 0) throw new ExitWith(exitCode, ENDS_BY.includes(signal) ? signal : undefined)
}

/** The descriptors with different names: 'web', 'web-2'. */
function named(entries: readonly Entry[]): Map<object, Arrived> {
  const names = new Set<string>()
  const arrived = new Map<object, Arrived>()
  for (const { name, descriptors } of entries)
    for (const descriptor of descriptors) {
      const different = differing(name, names)
      names.add(different)
      arrived.set(descriptor, { name: different, descriptor, head: undefined })
    }
  return arrived
}

async function show(entries: readonly StoredCopy[], ui: Ui): Promise<void> {
  for (const { name, owner, uid, pid, since, ttl, poll, keep, value, descriptors } of entries) {
    const arrived = descriptors.map((descriptor: Descriptor) => ({ name, descriptor, head: undefined }))
    const described = await describeAll(arrived)
    const shown = {
      name,
      owner,
      ...(value === undefined ? {} : { value: plain(value, new Map(), () => ({})) }),
      descriptors: arrived.map(one => described.get(one)),
      uid,
      pid,
      since,
      ...(ttl === undefined ? {} : { ttl }),
      poll,
      keep
    }
    ui.print(printableJson(shown, !ui.json && ui.streams.stdout.isTTY ? 2 : undefined))
  }
}

function checkNames(names: readonly string[]): void {
  for (const [index, name] of names.entries()) {
    checkEntryName(name)
    if (names.indexOf(name) < index) throw new CommandError(EXIT.usage, `The entry "${name}" is named twice`)
  }
}

function found<T>(entry: T | undefined, name: string, { path }: StoreLink): T {
  if (entry !== undefined) return entry
  throw missing(name, path)
}

export function missing(name: string, path: string): CommandError {
  const remedy = '"passfd store list" shows what there is'
  return new CommandError(EXIT.noInput, `The store at ${path} has no entry named ${name}`, remedy, { code: 'ENOENT' })
}

function closeAll(entries: readonly Entry[]): void {
  for (const { descriptors } of entries) for (const descriptor of descriptors) descriptor[Symbol.dispose]()
}
