/** The descriptors that a program has given away in a value that can't be sent: they have to come back. */
import { EventEmitter } from 'node:events'
import { types } from 'node:util'
import { Connection, descriptorOf } from './connection.ts'
import { Descriptor } from './descriptor.ts'

/** A Proxy may answer with new ones for ever. */
const MAX_PROXIES = 1000

/**
 * The open Descriptors in `value`, those in Connections too, each once. `met`: those that the encoder has met before it gave up.
 * Getters are not called again: what one has made is among those that the encoder has met.
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

function add(found: Set<Descriptor>, item: Descriptor | Connection): void {
  try {
    const descriptor = item instanceof Connection ? descriptorOf(item) : item
    if (!descriptor.closed) found.add(descriptor)
  } catch {
    // the Connection was used up: whoever did that has it
  }
}

/**
 * What the encoder would look at. It refuses sockets, streams and servers, and calls `toJSON()` instead of looking into an object that
 * has it: what is in those stays with the program.
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
