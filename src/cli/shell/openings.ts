/** How the command line names a descriptor that a command opens: a file, an inherited one, a listener. */
import { lstatSync, readlinkSync, rmSync, statSync } from 'node:fs'
import { text } from 'node:stream/consumers'
import { InvalidArgumentError } from 'commander'
import { type BindSpec, Descriptor } from '../../index.ts'
import { CommandError, EXIT } from '../exit.ts'
import { addressOf as bindSpecOf } from '../serve/read.ts'
import type { Ui } from '../ui.ts'

/** How a descriptor is made. */
export interface Opening {
  /** The caller owns the Descriptor. */
  open(): Promise<Descriptor>
  readonly isStdin?: boolean
  /** Removes the file that it has made, if nobody got the descriptor. */
  undo?(): void
}

/** Reads the JSON of `--value`; "-": from stdin, which none of `openings` may be then. */
export async function readValue(given: string, openings: readonly Opening[], ui: Ui): Promise<unknown> {
  if (given === '-' && openings.some(({ isStdin }) => isStdin))
    throw new CommandError(EXIT.usage, 'stdin can not be both the value and a descriptor')
  const json = given === '-' ? await text(ui.streams.stdin) : given
  try {
    return JSON.parse(json)
  } catch (cause) {
    throw new CommandError(EXIT.data, `The value is not JSON: ${(cause as Error).message}`, 'Quote it for the shell', {
      cause
    })
  }
}

const FLAGS = /:(r|r\+|rs|rs\+|w|w\+|wx|wx\+|a|a\+|ax|ax\+|as|as\+)$/

export function fileOpening(value: string): Opening {
  const [, flags = 'r'] = FLAGS.exec(value) ?? []
  const path = value.replace(FLAGS, '')
  return { open: () => Descriptor.open(path, flags) }
}

export function fdOpening(value: string): Opening {
  const fd = Number(value)
  if (!/^\d+$/.test(value) || fd > 0x7fffffff) throw new InvalidArgumentError('A descriptor is a number.')
  return {
    isStdin: fd === 0,
    open: async () => {
      checkInherited(fd)
      return Descriptor.from(fd)
    }
  }
}

/** Node opens some descriptors for itself, which an inherited one can't be told from by its number. */
function checkInherited(fd: number): void {
  let link = ''
  try {
    link = readlinkSync(`/proc/self/fd/${fd}`)
  } catch (cause) {
    throw notInherited(fd, `${fd} is not open`, cause)
  }
  if (/^anon_inode:(\[eventpoll\]|\[eventfd\]|\[io_uring\])$/.test(link))
    throw notInherited(fd, `${fd} is passfd's own`)
  if (fd < 3 || !link.startsWith('pipe:')) return
  // libuv holds both ends of a pipe to itself
  for (let other = 3; other < 64; other++) {
    try {
      if (other !== fd && readlinkSync(`/proc/self/fd/${other}`) === link)
        throw notInherited(fd, `${fd} is passfd's own`)
    } catch (error) {
      if (error instanceof CommandError) throw error
    }
  }
}

function notInherited(fd: number, why: string, cause?: unknown): CommandError {
  const remedy = `Redirect it in the shell, as in ${fd}<file`
  return new CommandError(EXIT.noInput, `No descriptor ${fd} was inherited: ${why}`, remedy, { code: 'EBADF', cause })
}

export function listenOpening(value: string): Opening {
  const spec = specOf(value)
  const path = 'path' in spec ? spec.path : undefined
  let file: number | undefined
  return {
    open: async () => {
      const descriptor = await Descriptor.bind(spec)
      if (path !== undefined) file = statSync(path).ino
      return descriptor
    },
    ...(path === undefined
      ? {}
      : {
          undo: () => {
            if (file !== undefined && lstatSync(path, { throwIfNoEntry: false })?.ino === file) rmSync(path)
          }
        })
  }
}

function specOf(value: string): Exclude<BindSpec, Descriptor> {
  try {
    return bindSpecOf(value) as Exclude<BindSpec, Descriptor>
  } catch (error) {
    throw new InvalidArgumentError(`It is ${(error as Error).message}.`)
  }
}
