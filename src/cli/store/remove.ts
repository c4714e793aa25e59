/** `passfd store remove`: removes entries, and the store closes their descriptors. */
import type { Command } from 'commander'
import { EXIT, ExitWith, failureOf } from '../exit.ts'
import { examples, Ui } from '../ui.ts'
import { addLinkOptions, checkEntryName, StoreLink } from './link.ts'
import { missing } from './run.ts'

export function registerRemove(store: Command): void {
  const remove = store
    .command('remove')
    .description('Removes entries from the store, which closes their descriptors. Programs that have copies go on.')
    .argument('<entry...>', 'names in the store')
    .option('--json', 'print JSON')
    .action(async (names: string[], { owner }: { owner?: number | string }) => {
      const ui = new Ui(remove)
      for (const name of names) checkEntryName(name)
      await using link = await StoreLink.open(remove, ui)
      const removed: string[] = []
      let exitCode: number = EXIT.ok
      for (const name of names) {
        if (await link.ask(link.client.remove(name, owner === undefined ? {} : { owner }))) removed.push(name)
        else {
          const failure = failureOf(missing(name, link.path))
          exitCode = failure.exitCode
          const { code, message } = failure
          ui.note(ui.json ? JSON.stringify({ error: { code, message } }) : `passfd: ${message}`)
        }
      }
      if (ui.json) ui.print(JSON.stringify({ removed }))
      if (exitCode !== EXIT.ok) throw new ExitWith(exitCode)
    })
  addLinkOptions(remove, 'of this user, if the rules of the store allow that')
  examples(
    remove,
    ['passfd store remove http', 'clients that wait in it are refused'],
    ['passfd store remove job log', 'several; what is missing is reported, and the exit code is 66']
  )
}
