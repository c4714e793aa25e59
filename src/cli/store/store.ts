/** `passfd store`: a holder of descriptors by name, and the commands to it. */
import type { Command } from 'commander'
import { CommandError, EXIT } from '../exit.ts'
import { examples, Ui } from '../ui.ts'
import { runStore } from './daemon.ts'
import { registerList } from './list.ts'
import { addOptions, type Given } from './options.ts'
import { registerPut } from './put.ts'
import { registerRemove } from './remove.ts'
import { registerCopy, registerTake } from './run.ts'
import { registerWatch } from './watch.ts'

export function register(program: Command): void {
  const store = program
    .command('store')
    .summary('Holds open files and sockets by name, for programs that end and come again.')
    .description(
      'Holds open files and sockets by name: for programs that crash, are started again or come later. Without a command it is the store itself, in the foreground; SIGTERM, SIGINT and SIGHUP end it, and it closes what it holds.'
    )
    .usage('[options] [command]')
    .enablePositionalOptions() // its commands have options of the same names
    .allowExcessArguments()
    .action(async (given: Given) => {
      const [word] = store.args
      if (word !== undefined) {
        const names = store.commands.map(each => each.name()).join(', ')
        throw new CommandError(EXIT.usage, `"${word}" is not a command of passfd store`, `There are: ${names}`)
      }
      await runStore(given, new Ui(store))
    })
  addOptions(store)
  for (const register of [registerList, registerPut, registerTake, registerCopy, registerRemove, registerWatch])
    register(store)
  examples(
    store,
    ['passfd store', 'at store.socket in the runtime folder'],
    ['passfd store --takeover', 'in the place of the one that runs, with all that it holds'],
    ['passfd store --socket ./store.socket --mode 0660 --max-bytes 16M', 'for a group'],
    ['passfd store put http --listen 127.0.0.1:8080', 'its commands: passfd store put --help']
  )
}
