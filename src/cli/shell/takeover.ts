/** `passfd takeover`: who holds a seat. */
import type { Command } from 'commander'
import { type Status, takeoverStatus } from '../../takeover/index.ts'
import { CommandError, EXIT } from '../exit.ts'
import { defaultName, takeoverPathOf } from '../names.ts'
import { printable } from '../printable.ts'
import { examples, Ui } from '../ui.ts'
import { countOf, duration } from '../words.ts'

export function registerTakeover(program: Command): void {
  const takeover = program
    .command('takeover')
    .description('Commands for the takeover of a running program by its next version.')
  const status = takeover
    .command('status')
    .description('Shows who serves at a takeover path and since when, who waits to take over, and who drains.')
    .argument('[target]', 'a takeover path with a "/", or the NAME of a server; default: the name of this folder')
    .option('--json', 'print JSON')
    .action(async (target?: string) => {
      const ui = new Ui(status)
      const path = takeoverPathOf(target ?? defaultName(process.cwd()))
      const found = await ui.progress(`waiting for ${path}`, takeoverStatus(path))
      if (found === undefined)
        throw new CommandError(
          EXIT.unavailable,
          `Nobody serves at the takeover path ${path}`,
          target?.includes('/') ? 'Start the program' : 'Name a running server, or the path with a "/"',
          { code: 'ECONNREFUSED' }
        )
      ui.result({ path, ...found }, statusText(found, Date.now()))
    })
  examples(
    status,
    ['passfd takeover status app', 'of the server "app"'],
    ['passfd takeover status /run/app/takeover', 'at a takeover path'],
    ['passfd takeover status --json app', 'the same for a program']
  )
}

/** `now`: in ms since the epoch. */
export function statusText({ owner, generation, since, candidate, waiting, chain }: Status, now: number): string {
  const versions = [owner.passfd && `passfd ${owner.passfd}`, owner.runtime].filter(Boolean).join(', ')
  const begun = new Date(since).toISOString().replace(/\.\d+Z$/, 'Z')
  return [
    `process ${owner.pid} serves${versions === '' ? '' : ` (${printable(versions)})`}, as number ${generation}, since ${begun} (${duration(Math.max(0, now - since))})`,
    ...(candidate === undefined
      ? []
      : [`process ${candidate} takes over: it boots, and process ${owner.pid} serves meanwhile`]),
    ...waiting.map(pid => `process ${pid} waits for its turn to take over`),
    ...chain.map(({ pid, connections }) => `process ${pid} drains: ${countOf(connections, 'connection')}`)
  ].join('\n')
}
