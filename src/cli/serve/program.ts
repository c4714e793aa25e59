/** What `passfd serve <program> [args…]` runs. */
import { accessSync, constants, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { delimiter, join, resolve } from 'node:path'
import { CommandError, EXIT } from '../exit.ts'
import type { ServeOptions } from './options.ts'

const NODE = /\.(?:[cm]?js|[cm]?ts|tsx|jsx)$/
const TYPESCRIPT = /\.(?:[cm]?ts|tsx)$/

const NO_MAIN = 'neither its package.json names a file as "main", nor has it an index.js'

/**
 * The command of the workers. A file of JavaScript or TypeScript, and a folder with a package, are run by this Node; all else is a command. So is the
 * name of a folder that Node can't run: `build`, `next`. Paths
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
  const isFolder = found?.isDirectory() === true
  const isPackage = isFolder && hasMain(resolve(cwd, program))
  if (isFolder && !isPackage && (program.includes('/') || /^\.\.?$/.test(program)))
    throw new CommandError(
      EXIT.noInput,
      `The folder ${resolve(cwd, program)} has no program: ${NO_MAIN}`,
      'Name the file'
    )
  if (!NODE.test(program) && !isPackage) {
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

/** Throws (exit code 66, or 77) if a command is in no folder of PATH, or can't be executed. A relative folder of PATH starts at `cwd`. */
export function checkFound(command: string, path: string, cwd: string): void {
  if (command.includes('/')) {
    const file = resolve(cwd, command)
    if (isExecutable(file)) return
    const remedy = `Make it executable ("chmod +x ${command}"), or name what runs it: passfd serve -- sh ${command}`
    throw new CommandError(EXIT.noPermission, `${file} can't be executed`, remedy)
  }
  if (folderWith(command, path, cwd) !== undefined) return
  const isFolder = statSync(resolve(cwd, command), { throwIfNoEntry: false })?.isDirectory() === true
  const remedy = isFolder
    ? `The folder of that name has no program, either: ${NO_MAIN}`
    : 'Check its name, or install its package'
  throw new CommandError(EXIT.noInput, `There is no command "${command}"`, remedy)
}

/** The folder of PATH that has a command. A relative one starts at `cwd`. */
export function folderWith(command: string, path: string, cwd: string): string | undefined {
  return path
    .split(delimiter)
    .map(folder => resolve(cwd, folder))
    .find(folder => isExecutable(resolve(folder, command)))
}

/** Whether `node <folder>` finds a program: "main" of package.json, or index.js. It does not look at "exports". */
function hasMain(folder: string): boolean {
  try {
    return !createRequire(join(folder, 'none.js')).resolve(folder).endsWith('.json')
  } catch {
    return false
  }
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
