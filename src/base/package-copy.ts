/**
 * Which copy of passfd made an object. One process may have several: two installed versions, one as a module and one by require(), or one
 * that a test runner evaluates again for each file. Their objects can't stand for each other, and an error is to say so.
 */
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { packageRoot } from './own-file.ts'
import { version } from './version.ts'

/** Where a copy is, and which. Another version of passfd reads this: its shape stays. */
interface Copy {
  readonly class: string
  readonly version: string
  /** Of the package's folder. */
  readonly url: string
}

/** All copies know it: the registry of symbols is one for all realms of a thread. */
const COPY: unique symbol = Symbol.for('passfd.copy') as never
const url = packageRoot === undefined ? 'a bundle' : pathToFileURL(join(packageRoot, '/')).href
const own = new WeakSet<object>()
/** A process has few copies of passfd. An object that only looks like one of another copy may have any value here. */
const MAX_PLACES = 100
/** The folders that errors have named. */
const places = new Set<string>()

/** Marks a class of passfd. */
export function mark(type: { readonly prototype: object }, name: string): void {
  const copy: Copy = { class: name, version, url }
  own.add(copy)
  Object.defineProperty(type.prototype, COPY, { value: copy })
}

/** Which copy has made a value, in a few words, and what it is there, if that is not this copy. Never throws. */
export function madeElsewhere(value: unknown): { what: string; by: string } | undefined {
  try {
    const copy = (value as { [COPY]?: Copy } | undefined)?.[COPY]
    if (typeof copy !== 'object' || copy === null || own.has(copy)) return undefined
    return { what: String(copy.class), by: named(String(copy.version), String(copy.url)) }
  } catch {
    return undefined // a Proxy whose trap throws, say
  }
}

function named(otherVersion: string, otherUrl: string): string {
  return otherUrl === url && otherVersion === version
    ? `another evaluation of passfd ${version} in ${place(url)}, which this process has loaded more than once`
    : `another copy of passfd: that is version ${otherVersion} in ${place(otherUrl)}, this one version ${version} in ${place(url)}`
}

function place(where: string): string {
  const text = pathOf(where)
  if (places.size < MAX_PLACES) places.add(text)
  return text
}

function pathOf(where: string): string {
  try {
    return fileURLToPath(where)
  } catch {
    return String(where)
  }
}

/** The text without the folders that `madeElsewhere` has named: a peer is not to learn paths of this host. */
export function withoutPlaces(text: string): string {
  for (const named of places) text = text.replaceAll(` in ${named}`, '')
  return text
}
