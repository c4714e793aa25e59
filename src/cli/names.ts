/** Names of servers, and the folder with their sockets. */
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { CommandError, EXIT } from './exit.ts'

/** What decides where the folder is; a test gives others than the process's. */
export interface Surroundings {
  env?: Record<string, string | undefined>
  uid?: number
  temporary?: string
}

/** `NAME.sock` is the admin channel of a server, `NAME.takeover` the path at which a successor asks. */
const ADMIN = '.sock'
const TAKEOVER = '.takeover'

/**
 * The folder of the sockets: `$PASSFD_RUNTIME_DIR`; `/run/passfd` for root; `$XDG_RUNTIME_DIR/passfd`; else one under the temporary folder.
 * `create`: with mode 0700, if it does not exist. Throws (exit code 77) if it belongs to another user or others can write into it, because they
 * could then answer in the place of a server.
 */
export function runtimeFolder(create = false, surroundings: Surroundings = {}): string {
  const { env = process.env, uid = process.geteuid!(), temporary = tmpdir() } = surroundings
  const folder = env.PASSFD_RUNTIME_DIR
    ? resolve(env.PASSFD_RUNTIME_DIR)
    : uid === 0
      ? '/run/passfd'
      : env.XDG_RUNTIME_DIR
        ? join(env.XDG_RUNTIME_DIR, 'passfd')
        : join(temporary, `passfd-${uid}`)
  if (create) make(folder)
  check(folder, uid)
  return folder
}

function make(folder: string): void {
  try {
    makeFolders(folder)
  } catch (cause) {
    const { code = '' } = cause as NodeJS.ErrnoException
    const exitCode = code === 'EACCES' || code === 'EPERM' ? EXIT.noPermission : EXIT.cantCreate
    const remedy = 'Set PASSFD_RUNTIME_DIR to a folder of yours'
    throw new CommandError(exitCode, `The folder ${folder} can't be made (${code})`, remedy, { code, cause })
  }
}

/** As `recursive` of mkdirSync(), which never returns where the kernel makes no folders, in /proc for example. What exists is checked later. */
function makeFolders(folder: string): void {
  try {
    mkdirSync(folder, { mode: 0o700 })
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EEXIST') return
    if (code !== 'ENOENT' || existsSync(dirname(folder))) throw error
    makeFolders(dirname(folder))
    mkdirSync(folder, { mode: 0o700 })
  }
}

function check(folder: string, uid: number): void {
  const found = lstatSync(folder, { throwIfNoEntry: false })
  if (found === undefined) return
  const refuse = (what: string, remedy: string): never => {
    throw new CommandError(EXIT.noPermission, `${folder} ${what}`, remedy)
  }
  if (!found.isDirectory()) refuse('is not a folder', 'Remove it, or set PASSFD_RUNTIME_DIR to a folder of yours')
  if (found.uid !== uid) refuse(`belongs to user ${found.uid}`, 'Set PASSFD_RUNTIME_DIR to a folder of yours')
  if ((found.mode & 0o022) !== 0) refuse('can be written by other users', `Run "chmod 700 ${folder}"`)
}

/** The admin socket that a NAME or a path means: what contains a `/` is a path. */
export function socketOf(nameOrPath: string, surroundings: Surroundings = {}): string {
  if (nameOrPath.includes('/')) return resolve(nameOrPath)
  return join(runtimeFolder(false, surroundings), `${checkName(nameOrPath)}${ADMIN}`)
}

/** The takeover path that a NAME or a path means. */
export function takeoverPathOf(nameOrPath: string, surroundings: Surroundings = {}): string {
  if (nameOrPath.includes('/')) return resolve(nameOrPath)
  return join(runtimeFolder(false, surroundings), `${checkName(nameOrPath)}${TAKEOVER}`)
}

/** The names that have a socket in the folder. Whether somebody answers there is another question. */
export function namesInFolder(surroundings: Surroundings = {}): string[] {
  try {
    return readdirSync(runtimeFolder(false, surroundings))
      .filter(file => file.endsWith(ADMIN) && file.length > ADMIN.length)
      .map(file => file.slice(0, -ADMIN.length))
      .sort()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}

/** The name of a server in this folder: that in its package.json, without its scope, else the folder's. */
export function defaultName(cwd: string): string {
  let name: unknown
  try {
    name = JSON.parse(readFileSync(join(cwd, 'package.json'), 'utf8').replace(/^\ufeff/, '')).name
  } catch {
    // serve reports a broken package.json
  }
  const found = typeof name === 'string' ? name.replace(/^@[^/]*\//, '') : basename(resolve(cwd))
  return found.replace(/[^\w.-]/g, '-').replace(/^[.-]+/, '') || 'passfd'
}

/** Whether it can be part of a file's name. */
export function isName(name: string): boolean {
  return /^[A-Za-z0-9_][\w.-]*$/.test(name)
}

/** Returns the name. Throws (exit code 64) if it is none. */
export function checkName(name: string): string {
  if (isName(name)) return name
  throw new CommandError(EXIT.usage, `"${name}" is not a name`, 'A name consists of A-Z, a-z, 0-9, ".", "_" and "-"')
}
