/** The configuration of `passfd serve`: a file passfd.config.*, or the key "passfd" of package.json. */
import { existsSync, readFileSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { asError } from '../../base/errors.ts'
import { checkOptions } from '../../base/known-options.ts'
import { CommandError, EXIT } from '../exit.ts'
import { defaultName } from '../names.ts'
import { OPTIONS, readConfiguration, type ServeOptions } from './options.ts'

const FILES = ['passfd.config.js', 'passfd.config.mjs', 'passfd.config.cjs', 'passfd.config.json']

/** Reads the configuration in this folder, or the given file. Without one there are no options. Throws (exit code 78; 66 without the given file). */
export async function loadConfiguration(cwd: string, file?: string): Promise<ServeOptions> {
  const path =
    file === undefined ? FILES.map(name => join(cwd, name)).find(path => existsSync(path)) : resolve(cwd, file)
  if (path !== undefined && !existsSync(path))
    throw new CommandError(EXIT.noInput, `${path} does not exist`, 'Check --config')
  const [given, name] =
    path === undefined ? [ofPackage(cwd), '"passfd" in package.json'] : [await loadFile(path), basename(path)]
  if (given === undefined && path === undefined) return {}
  const known = Object.fromEntries(
    Object.entries(OPTIONS).flatMap(([key, { commandLineOnly }]) => (commandLineOnly ? [] : [[key, true]]))
  )
  try {
    checkOptions(given, known, name)
  } catch (error) {
    throw new CommandError(EXIT.config, (error as Error).message, undefined, { cause: error })
  }
  const folder = path === undefined ? cwd : dirname(path)
  try {
    return readConfiguration(given as object, name, place => resolve(folder, place))
  } catch (cause) {
    if (cause instanceof CommandError) throw cause
    // One of its getters has thrown
    throw new CommandError(EXIT.config, `${name} can't be read: ${asError(cause).message}`, undefined, { cause })
  }
}

/** The name of the server of this folder, for commands that are given none. */
export async function nameHere(cwd: string): Promise<string> {
  return (await loadConfiguration(cwd)).name ?? defaultName(cwd)
}

/** What a file of JSON or a module's default export has. Throws (exit code 78). */
export async function loadFile(path: string): Promise<unknown> {
  try {
    if (path.endsWith('.json')) return jsonIn(path)
    return await settled(import(pathToFileURL(path).href).then(module => module.default))
  } catch (cause) {
    throw new CommandError(EXIT.config, `${path} can't be loaded: ${asError(cause).message}`, undefined, { cause })
  }
}

/** Rejects if nothing is left that could settle `work`: Node would end this process without a word. */
async function settled<T>(work: Promise<T>): Promise<T> {
  let onIdle = (): void => {}
  const idle = new Promise<never>((_, reject) => {
    onIdle = () => reject(new Error('it awaits what never comes'))
  })
  process.once('beforeExit', onIdle)
  try {
    return await Promise.race([work, idle])
  } finally {
    process.off('beforeExit', onIdle)
  }
}

function ofPackage(cwd: string): unknown {
  const path = join(cwd, 'package.json')
  if (!existsSync(path)) return undefined
  try {
    return (jsonIn(path) as { passfd?: unknown } | null)?.passfd
  } catch (cause) {
    throw new CommandError(EXIT.config, `${path} is no JSON: ${asError(cause).message}`, undefined, { cause })
  }
}

/** Without a byte order mark, which npm ignores, too. */
function jsonIn(path: string): unknown {
  return JSON.parse(readFileSync(path, 'utf8').replace(/^\ufeff/, ''))
}
