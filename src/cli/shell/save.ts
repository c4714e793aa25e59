/** Copies what can be read from descriptors into files of one folder, and never elsewhere. */
import * as fs from 'node:fs'
import { copyFile as copy, link, open, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { addAbortSignal } from 'node:stream'
import { promisify } from 'node:util'
import { Descriptor } from '../../index.ts'
import { CommandError, EXIT } from '../exit.ts'
import { type Arrived, differing } from './values.ts'

const read = promisify(fs.read)

/** What has become of a descriptor. */
export interface Saved {
  /** The file, with its folder as the user wrote it. */
  saved?: string
  /** The number of copied bytes. */
  bytes?: number
  /** Why it was closed and not saved. */
  closed?: string
}

const CHUNK = 262_144
const WITHOUT_LINKS = ['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS']
/** The longest name of a file, in bytes (NAME_MAX of Linux's file systems), without room for a number. */
const LONGEST = 240

/** A folder that was opened once: files are made in it even if somebody puts a link in its place meanwhile. */
export class Folder implements Disposable {
  readonly #path: string
  readonly #descriptor: Descriptor

  private constructor(path: string, descriptor: Descriptor) {
    this.#path = path
    this.#descriptor = descriptor
  }

  /** Throws ENOTDIR, EACCES; a CommandError if there is no such folder. */
  static open(path: string): Folder {
    try {
      return new Folder(path, Descriptor.openSync(path, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY))
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== 'ENOENT') throw cause
      throw new CommandError(EXIT.noInput, `There is no folder ${path}`, 'Make it with mkdir', {
        code: 'ENOENT',
        cause
      })
    }
  }

  [Symbol.dispose](): void {
    this.#descriptor.close()
  }

  /**
   * Saves files and pipes, each under its name. All others are closed first: one of them may be the writing end of a pipe that would not end
   * otherwise. `force`: replaces files that exist. If one exists otherwise, it throws before anything is saved. `signal`: gives up.
   */
  async save(all: readonly Arrived[], force: boolean, signal: AbortSignal): Promise<Map<Arrived, Saved>> {
    const result = new Map<Arrived, Saved>()
    const why = new Map(all.map(one => [one, whyNot(one)]))
    const wanted = all.filter(one => why.get(one) === undefined)
    const names = fileNames(wanted.map(({ name }) => name))
    for (const name of force ? [] : names)
      if (fs.lstatSync(this.#at(name), { throwIfNoEntry: false }) !== undefined) throw this.#exists(name)
    for (const one of all) {
      const closed = why.get(one)
      if (closed === undefined) continue
      result.set(one, { closed })
      one.descriptor.close()
    }
    for (const [index, one] of wanted.entries()) {
      const name = names[index]!
      result.set(one, { saved: join(this.#path, name), bytes: await this.#saveOne(one, name, force, signal) })
    }
    return result
  }

  #at(name: string): string {
    return `/proc/self/fd/${this.#descriptor.borrow()}/${name}`
  }

  #exists(name: string): CommandError {
    return new CommandError(EXIT.cantCreate, `${join(this.#path, name)} exists`, 'Add --force to replace it', {
      code: 'EEXIST'
    })
  }

  /** Unless there is a file of that name. */
  async #giveName(unfinished: string, name: string): Promise<void> {
    const [from, to] = [this.#at(unfinished), this.#at(name)]
    try {
      await link(from, to).catch(error => {
        // A file system without hard links, vfat for example
        if (!WITHOUT_LINKS.includes(error.code)) throw error
        return copy(from, to, fs.constants.COPYFILE_EXCL)
      })
    } catch (error) {
      throw (error as NodeJS.ErrnoException).code === 'EEXIST' ? this.#exists(name) : error
    }
  }

  /** The file has its name only when it is complete. */
  async #saveOne(one: Arrived, name: string, force: boolean, signal: AbortSignal): Promise<number> {
    const unfinished = `.passfd-${process.pid}-${name.slice(0, 100)}`
    const file = await open(this.#at(unfinished), 'wx', 0o666)
    try {
      const bytes =
        one.descriptor.kind === 'pipe' ? await copyPipe(one, file, signal) : await copyFile(one, file, signal)
      if (force) await rename(this.#at(unfinished), this.#at(name))
      else {
        await this.#giveName(unfinished, name)
        await rm(this.#at(unfinished))
      }
      return bytes
    } catch (error) {
      await rm(this.#at(unfinished), { force: true })
      throw error
    } finally {
      await file.close()
    }
  }
}

function whyNot({ descriptor, head }: Arrived): string | undefined {
  const { kind, access } = descriptor
  if (kind !== 'file' && kind !== 'memfd' && kind !== 'pipe') return `a ${kind} has no contents to save`
  if (access !== 'read' && access !== 'read-write') return 'it is not open for reading'
  if (head !== undefined) return 'bytes of it were read already'
  return undefined
}

/** From the beginning, and without moving the offset, which the sender shares. */
async function copyFile({ descriptor }: Arrived, file: fs.promises.FileHandle, signal: AbortSignal): Promise<number> {
  const buffer = Buffer.allocUnsafe(CHUNK)
  for (let position = 0; ; ) {
    signal.throwIfAborted()
    const { bytesRead } = await read(descriptor.borrow(), buffer, 0, buffer.length, position)
    if (bytesRead === 0) return position
    await file.writeFile(buffer.subarray(0, bytesRead))
    position += bytesRead
  }
}

async function copyPipe({ descriptor }: Arrived, file: fs.promises.FileHandle, signal: AbortSignal): Promise<number> {
  let bytes = 0
  const stream = addAbortSignal(signal, descriptor.toReadable())
  for await (const part of stream as AsyncIterable<Buffer>) {
    await file.writeFile(part)
    bytes += part.length
  }
  return bytes
}

/** Names of files in one folder: no path leads out of it, none is hidden, and all are different. */
export function fileNames(names: readonly string[]): string[] {
  const used = new Set<string>()
  return names.map(name => {
    // A terminal that lists the folder obeys control characters
    let valid = name.replace(/[\x00-\x1f\x7f/]/g, '_').replace(/^\./, '_')
    while (Buffer.byteLength(valid) > LONGEST) valid = [...valid].slice(0, -1).join('')
    const different = differing(valid || '_', used)
    used.add(different)
    return different
  })
}
