/** Where the store is: `--socket`, else the variable PASSFD_STORE, else a socket in the runtime folder. */
import { basename, dirname, join, resolve } from 'node:path'
import { CommandError, EXIT } from '../exit.ts'
import { runtimeFolder } from '../names.ts'
import type { Streams } from '../ui.ts'

/** It does not end in `.sock`, which would make it a server of `passfd serve` with the name "store". */
const FILE = 'store.socket'

/** The path of the store's socket. `given`: the option. */
export function storePath(given: string | undefined, env: Streams['env']): string {
  const named = given ?? (env.PASSFD_STORE || undefined)
  return named === undefined ? join(runtimeFolder(false, { env }), FILE) : resolve(named)
}

/** The same for the store itself, which makes the runtime folder. Throws (exit code 64) if servers of `passfd serve` have such paths. */
export function ownStorePath(given: string | undefined, env: Streams['env']): string {
  const named = given ?? (env.PASSFD_STORE || undefined)
  if (named === undefined) runtimeFolder(true, { env })
  const path = storePath(given, env)
  if (path.endsWith('.sock') && dirname(path) === folderOf(env))
    throw new CommandError(
      EXIT.usage,
      `${path} is the socket of a server with the name "${basename(path, '.sock')}"`,
      'Choose a name that does not end in .sock, or another folder'
    )
  return path
}

/** Undefined: it is not this user's, so no server of this user is there. */
function folderOf(env: Streams['env']): string | undefined {
  try {
    return runtimeFolder(false, { env })
  } catch {
    return undefined
  }
}
