/** Finds the Descriptors in a value that can't be sent, so that they come back; in the result of a schema, so that they stay open; and in an answer, to close them. */
import { EventEmitter } from 'node:events'
import { types } from 'node:util'
import { Connection, descriptorOf } from '../connection/connection.ts'
import { Descriptor, moveOutShared } from '../descriptor/descriptor.ts'
import { discard } from '../os/loop.ts'

/** The most Proxies that are searched, because a Proxy may return new ones for ever. */
const MAX_PROXIES = 1000

/**
 * Finds the open Descriptors in `value`, also those in Connections, each once. `met`: those that the encoder met before it failed.
 * It calls no getters, because Descriptors that a getter returned are in `met`.
 */
export function descriptorsGiven(value: unknown, met: readonly Descriptor[]): Descriptor[] {
  const found = new Set<Descriptor>()
  for (const descriptor of met) add(found, descriptor)
  const seen = new Set<unknown>()
  let proxies = 0
  const left: unknown[] = [value]
  while (left.length > 0) {
    const item = left.pop()
    if (typeof item !== 'object' || item === null || seen.has(item)) continue
    seen.add(item)
    if (types.isProxy(item) && ++proxies > MAX_PROXIES) continue
    try {
      if (item instanceof Descriptor || item instanceof Connection) add(found, item)
      else left.push(...partsOf(item).reverse())
    } catch {
      // a Proxy that answers nothing
    }
  }
  return [...found]
}

/** Searches at most so many objects. In a larger value all Descriptors count as found. */
const MAX_OBJECTS = 10_000

/**
 * Finds those of `wanted` that `value` holds, also in Connections: breadth-first through own properties, Maps and Sets. It calls no getters, and
 * can't see closures and private fields.
 */
export function heldBy(value: unknown, wanted: readonly Descriptor[]): ReadonlySet<Descriptor> {
  const held = new Set<Descriptor>()
  const queue: unknown[] = [value]
  const seen = new Set<unknown>()
  for (let at = 0; at < queue.length; at++) {
    const item = queue[at]
    if (typeof item !== 'object' || item === null || seen.has(item)) continue
    if (seen.size >= MAX_OBJECTS) return new Set(wanted)
    seen.add(item)
    try {
      if (item instanceof Descriptor || item instanceof Connection) add(held, item)
      else for (const part of everyPartOf(item)) if (typeof part === 'object') queue.push(part)
    } catch {
      // a Proxy that answers nothing
    }
    if (wanted.every(each => held.has(each))) break
  }
  return held
}

/**
 * Closes the open Descriptors in a peer's answer, also those in Connections, off the loop. `used` stay open. Call it for each answer that this side has
 * requested for itself: a peer may add what nobody reads.
 */
export function closeUnused(answer: unknown, used: readonly Descriptor[] = []): void {
  const found = new Set<Descriptor>()
  const seen = new Set<unknown>()
  const left: unknown[] = [answer]
  while (left.length > 0) {
    const item = left.pop()
    if (typeof item !== 'object' || item === null || seen.has(item)) continue
    seen.add(item)
    if (item instanceof Descriptor || item instanceof Connection) add(found, item)
    else for (const part of everyPartOf(item)) left.push(part)
  }
  for (const descriptor of used) found.delete(descriptor)
  if (found.size > 0) discard(Array.from(found, descriptor => moveOutShared(descriptor, 'passfd')))
}

function everyPartOf(item: object): Iterable<unknown> {
  if (ArrayBuffer.isView(item)) return []
  if (Array.isArray(item)) return item
  const parts: unknown[] = Object.values(Object.getOwnPropertyDescriptors(item)).map(({ value }) => value)
  for (const key of Object.getOwnPropertySymbols(item)) parts.push(Object.getOwnPropertyDescriptor(item, key)?.value)
  if (types.isMap(item)) for (const entry of Map.prototype.entries.call(item)) parts.push(...entry)
  if (types.isSet(item)) for (const each of Set.prototype.values.call(item)) parts.push(each)
  return parts
}

function add(found: Set<Descriptor>, item: Descriptor | Connection): void {
  try {
    const descriptor = item instanceof Connection ? descriptorOf(item) : item
    if (!descriptor.closed) found.add(descriptor)
  } catch {
    // the Connection was used up, so its descriptor has a new owner
  }
}

/**
 * Whether the encoder would look into the object. It refuses sockets, streams and servers, and calls `toJSON()` of objects that have it:
 * Descriptors in those stay with the program.
 */
function partsOf(item: object): unknown[] {
  if (types.isMap(item)) return [...Map.prototype.entries.call(item)].flat()
  if (types.isSet(item)) return [...Set.prototype.values.call(item)]
  if (ArrayBuffer.isView(item) || item instanceof EventEmitter || 'toJSON' in item) return []
  const parts: unknown[] = []
  for (const { value, enumerable } of Object.values(Object.getOwnPropertyDescriptors(item)))
    if (enumerable && typeof value === 'object') parts.push(value)
  return parts
}
