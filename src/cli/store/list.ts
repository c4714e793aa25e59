/** `passfd store list`: what the store holds. */
import type { Command } from 'commander'
import type { StoredEntry } from '../../store/index.ts'
import { printable } from '../printable.ts'
import { type Column, table } from '../table.ts'
import { examples, Ui } from '../ui.ts'
import { bytes, countOf, duration } from '../words.ts'
import { addLinkOptions, StoreLink } from './link.ts'

export function registerList(store: Command): void {
  const list = store
    .command('list')
    .description('Shows what the store holds, as far as you may read it.')
    .argument('[pattern]', 'a name, or the beginning of names and a "*" (default: all)')
    .option('--names', 'print the names alone')
    .option('--json', 'print JSON')
    .action(async (pattern: string | undefined, { names, owner }: { names?: boolean; owner?: number | string }) => {
      const ui = new Ui(list)
      await using link = await StoreLink.open(list, ui)
      const entries = await link.ask(
        link.client.list({
          ...(pattern === undefined ? {} : { names: pattern }),
          ...(owner === undefined ? {} : { owner })
        })
      )
      if (!names) return ui.result(entries, listText(entries, Date.now()))
      const found = [...new Set(entries.map(({ name }) => name))]
      if (ui.json || found.length > 0) ui.result(found, found.map(printable).join('\n'))
    })
  addLinkOptions(list, 'the entries of this user only')
  examples(
    list,
    ['passfd store list', 'all that you may read'],
    ["passfd store list 'web*'", 'of names with this beginning'],
    ['passfd store list --json', 'the same for a program']
  )
}

const COLUMNS: readonly Column[] = [
  ['NAME'],
  ['OWNER', 'right'],
  ['DESCRIPTORS'],
  ['VALUE', 'right'],
  ['AGE', 'right'],
  ['EXPIRES IN', 'right'],
  ['PUT BY'],
  ['TAKEN BY']
]

/** A table. `now`: in ms since 1970. */
export function listText(entries: readonly StoredEntry[], now: number): string {
  if (entries.length === 0) return 'The store holds nothing that you may read and asked for.'
  const rows = entries.map(({ name, owner, kinds, bytes: size, since, ttl, uid, pid, leased }) => [
    printable(name),
    String(owner),
    kindsText(kinds),
    size === 0 ? '' : bytes(size),
    duration(Math.max(0, now - since)),
    ttl === undefined ? '' : duration(ttl),
    `process ${pid}${uid === owner ? '' : `, user ${uid}`}`,
    leased === undefined ? '' : `process ${leased}`
  ])
  const descriptors = entries.reduce((sum, { kinds }) => sum + kinds.length, 0)
  const names = countOf(entries.length, 'name')
  return [...table(COLUMNS, rows), `${names}, ${countOf(descriptors, 'descriptor')}`].join('\n')
}

/** 'tcp-listener, 2 × file'. */
export function kindsText(kinds: readonly string[]): string {
  const counts = new Map<string, number>()
  for (const kind of kinds) counts.set(kind, (counts.get(kind) ?? 0) + 1)
  return [...counts].map(([kind, count]) => printable(count === 1 ? kind : `${count} × ${kind}`)).join(', ')
}
