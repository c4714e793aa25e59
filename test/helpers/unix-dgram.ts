/** The package unix-dgram, whose native part npm compiles for one version of Node. */
import { createRequire } from 'node:module'

function load(): { createSocket(type: string): unknown } | undefined {
  try {
    return createRequire(import.meta.url)('unix-dgram')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_DLOPEN_FAILED') throw error
    return undefined
  }
}

const loaded = load()

/** Why a test with it can't run, unless it is loaded. */
export const notLoaded: string | undefined =
  loaded === undefined ? 'unix-dgram was compiled for another version of Node: npm rebuild unix-dgram' : undefined

/** One of its sockets. */
export function theirSocket<Socket>(): Socket {
  return loaded!.createSocket('unix_dgram') as Socket
}
