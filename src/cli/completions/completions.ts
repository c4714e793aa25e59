/** `passfd completions`: a script for a shell, made of the tree of commands. */
import { Argument, type Command } from 'commander'
import { examples, Ui } from '../ui.ts'
import { bashScript } from './bash.ts'
import { fishScript } from './fish.ts'
import { type Node, treeOf } from './tree.ts'
import { zshScript } from './zsh.ts'

const SCRIPTS: Record<string, (tree: Node) => string> = { bash: bashScript, zsh: zshScript, fish: fishScript }

export function register(program: Command): void {
  const command = program
    .command('completions')
    .description('Prints a script that completes commands, options and names of servers in a shell.')
    .addArgument(new Argument('<shell>', 'the shell').choices(Object.keys(SCRIPTS)))
    .action((shell: string) => new Ui(command).print(SCRIPTS[shell]!(treeOf(program))))
  examples(
    command,
    ['source <(passfd completions bash)', 'for this bash; in ~/.bashrc for all'],
    ['source <(passfd completions zsh)', 'the same for zsh, behind compinit in ~/.zshrc'],
    ['passfd completions fish > ~/.config/fish/completions/passfd.fish', 'for fish']
  )
}
