/** What `passfd serve <program> [args…]` runs. */
import { accessSync, constants, statSync } from 'node:fs'
import { delimiter, resolve } from 'node:path'
import { CommandError, EXIT } from '../exit.ts'
import type { ServeOptions } from './options.ts'

const NODE = /\.(?:[cm]?js|[cm]?ts|tsx|jsx)$/
const TYPESCRIPT = /\.(?:[cm]?ts|tsx)$/

/**
 * The command of the workers. A file of JavaScript or TypeScript, and a folder with a package, are run by this Node; all else is a command. Paths
 * start at `cwd`. Throws (exit code 64 or 66).
 */
export function commandOf(
  program: string,
  args: readonly string[],
  options: ServeOptions,
  cwd: string
): [string, ...string[]] {
  const found = statSync(resolve(cwd, program), { throwIfNoEntry: false })
  const isPath = NODE.test(program) || program.includes('/')
  if (found === undefined && isPath)
    throw new CommandError(EXIT.noInput, `There is no program ${resolve(cwd, program)}`, 'Check its path')
  const nodeOptions = nodeOptionsOf(options)
  const forNode = NODE.test(program) || found?.isDirectory() === true
  if (!forNode) {
    if (nodeOptions.length > 0)
      throw new CommandError(
        EXIT.usage,
        `${program} is a command, so ${nodeOptions[0]!.split('=')[0]} can't be given to Node`,
        'Set NODE_OPTIONS, or name the file of the program'
      )
    return [program, ...args]
  }
  if (
    TYPESCRIPT.test(program) &&
    nodeOptions.length === 0 &&
    !(process.features as { typescript?: unknown }).typescript
  )
    throw new CommandError(
      EXIT.usage,
      `Node ${process.version} does not run TypeScript (${program})`,
      'Run "npm install --save-dev tsx", and add --import tsx before the program'
    )
  return [process.execPath, ...nodeOptions, program, ...args]
}

/** Throws (exit code 66) if a command is in no folder of PATH. A relative folder of PATH starts at `cwd`. */
export function checkFound(command: string, path: string, cwd: string): void {
  if (command.includes('/') || path.split(delimiter).some(folder => isExecutable(resolve(cwd, folder, command)))) return
  throw new CommandError(EXIT.noInput, `There is no command "${command}"`, 'Check its name, or install its package')
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return statSync(path).isFile()
  } catch {
    return false
  }
}

function nodeOptionsOf({
  import: imports = [],
  require = [],
  conditions = [],
  nodeOption = []
}: ServeOptions): string[] {
  return [
    ...nodeOption,
    ...conditions.map(each => `--conditions=${each}`),
    ...require.map(each => `--require=${each}`),
    ...imports.map(each => `--import=${each}`)
  ]
}
