/** `passfd store watch`: what happens to entries. */
import type { Command } from 'commander'
import type { EntryEvent, StoreChange, StoredEntry } from '../../store/index.ts'
import { EXIT, ExitWith } from '../exit.ts'
import { printable, printableJson } from '../printable.ts'
import { examples, Ui } from '../ui.ts'
import { bytes } from '../words.ts'
import { addLinkOptions, StoreLink } from './link.ts'
import { kindsText } from './list.ts'

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
/** So many bytes wait for whoever reads stdout; then the watch waits, and the store sends a new list later. */
const MOST_UNREAD = 1024 * 1024
const PAUSE = 100

export function registerWatch(store: Command): void {
  const watch = store
    .command('watch')
    .summary('Shows what happens to entries, until it is ended.')
    .description(
      'Shows the entries that there are, and then what happens to them, as far as you may read them. SIGINT, SIGTERM or SIGHUP end it. When the store is replaced or started again, it connects again and shows the entries anew.'
    )
    .argument('[pattern]', 'a name, or the beginning of names and a "*" (default: all)')
    .option('--json', 'print one line of JSON for each change: { time, event, entries } or { time, event, entry }')
    .action((pattern: string | undefined, options: { owner?: number | string }) => runWatch(pattern, options, watch))
  addLinkOptions(watch, 'the entries of this user only')
  examples(
    watch,
    ['passfd store watch', 'all that you may read'],
    ["passfd store watch 'web*' --json", 'of names with this beginning, for a program']
  )
}

async function runWatch(
  pattern: string | undefined,
  { owner }: { owner?: number | string },
  command: Command
): Promise<void> {
  const ui = new Ui(command)
  const stop = new AbortController()
  let exitCode: number = EXIT.ok
  const end = (code: number): void => {
    exitCode = code
    stop.abort()
  }
  const onSignal = (_: NodeJS.Signals, number: number): void => end(128 + number)
  // `passfd store watch | head`
  const cut = (): void => end(EXIT.ok)
  const stdout = ui.streams.stdout as Partial<NodeJS.WriteStream>
  await using link = await StoreLink.open(command, ui)
  for (const signal of SIGNALS) process.on(signal, onSignal)
  stdout.once?.('error', cut)
  link.client.on('reconnected', ({ lost }) =>
    ui.note(`passfd: connected to the store again${lost ? ', which has lost everything' : ''}.`)
  )
  try {
    const selection = {
      ...(pattern === undefined ? {} : { names: pattern }),
      ...(owner === undefined ? {} : { owner })
    }
    for await (const change of link.client.watch({ ...selection, signal: stop.signal })) {
      print(change, ui)
      while ((ui.streams.stdout.writableLength ?? 0) > MOST_UNREAD && !stop.signal.aborted)
        await new Promise(resolve => setTimeout(resolve, PAUSE))
    }
  } finally {
    for (const signal of SIGNALS) process.off(signal, onSignal)
    stdout.off?.('error', cut)
  }
  if (exitCode !== EXIT.ok) throw new ExitWith(exitCode)
}

function print(change: StoreChange, ui: Ui): void {
  const time = new Date().toISOString()
  if (ui.json) ui.print(printableJson({ time, ...change }))
  else for (const line of changeText(change)) ui.print(`${time}  ${line}`)
}

const WORDS: Record<EntryEvent, string> = {
  put: 'was put',
  leased: 'was taken',
  returned: 'is in the store again',
  kept: 'is out of the store, at the process that has taken it',
  removed: 'was removed',
  replaced: 'was replaced',
  expired: 'has expired',
  hangUp: 'was removed, because the other end has hung up'
}

/** Lines for a terminal. */
export function changeText(change: StoreChange): string[] {
  if ('entry' in change) {
    const { entry, event } = change
    const by = event === 'put' ? ` by process ${entry.pid} of user ${entry.uid}` : ''
    const taken = event === 'leased' ? ` by process ${entry.leased}` : ''
    return [`${entryText(entry)} ${WORDS[event] ?? printable(event)}${by}${taken}`]
  }
  if (change.entries.length === 0) return ['nothing is there']
  return change.entries.map(entry => `${entryText(entry)} is there`)
}

/** 'http (tcp-listener) of user 0'. */
function entryText({ name, kinds, owner, bytes: size }: StoredEntry): string {
  return `${printable(name)} (${kindsText(kinds)}${size === 0 ? '' : `, ${bytes(size)}`}) of user ${owner}`
}
