/** What is compared of a value that has arrived and of what `structuredClone` makes of it. */

/** deepStrictEqual takes no invalid Date for equal to another one; a Buffer is a Uint8Array for structuredClone. */
export function asClone(value: unknown): unknown {
  return map(value, item => {
    if (item instanceof Date) return { time: item.getTime() }
    return Buffer.isBuffer(item) ? Uint8Array.from(item) : item
  })
}

/** Lone surrogates don't arrive as such. */
export function wellFormed(value: unknown): unknown {
  return map(value, item => (typeof item === 'string' ? item.toWellFormed() : item))
}

function map(value: unknown, change: (item: unknown) => unknown): unknown {
  if (Array.isArray(value)) return Array.from(value, item => map(item, change)) // holes arrive as undefined
  if (value instanceof Map) return new Map(Array.from(value, ([key, item]) => [map(key, change), map(item, change)]))
  if (value instanceof Set) return new Set(Array.from(value, item => map(item, change)))
  if (typeof value !== 'object' || value === null || Object.getPrototypeOf(value) !== Object.prototype)
    return change(value)
  const made = {}
  for (const [key, item] of Object.entries(value))
    Object.defineProperty(made, change(key) as string, {
      value: map(item, change),
      writable: true,
      enumerable: true,
      configurable: true
    })
  return made
}
