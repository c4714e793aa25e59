/** Messages that are nearly right. */
import type { Random } from './random.ts'

/**
 * Returns `value` with one to three changes: a field is missing, is something else, is wrapped, is elsewhere, or is there twice under another name. All
 * Descriptors of `value` are still in it, because a value that was moved out is put into another field.
 */
export function malformed(random: Random, value: Record<string, unknown>): unknown {
  let changed: unknown = value
  for (let left = random.integer(1, 3); left > 0; left--) changed = change(random, changed)
  return changed
}

function nonsense(random: Random): unknown {
  return random.pick([undefined, null, 0, -1, 1.5, 2 ** 60, 'text', '', true, [], {}, [null], Buffer.alloc(2)])
}

function change(random: Random, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value) || value instanceof Map) return [value]
  const fields = Object.entries(value)
  const places = Array.isArray(value) || isPlain(value) ? fields : []
  if (places.length === 0) return random.pick([[value], { value }, new Map([['value', value]]), new Set([value])])
  const [name, former] = random.pick(places)
  const whole = value as Record<string, unknown>
  const kept = { former }
  switch (random.integer(0, 4)) {
    case 0: // something else in its place
      whole[name] = nonsense(random)
      return Array.isArray(whole) ? [...whole, kept] : { ...whole, [`kept${fields.length}`]: kept }
    case 1: // missing
      return {
        ...Object.fromEntries(fields.filter(([one]) => one !== name)),
        ['toJSON' in whole ? `missing${fields.length}` : 'toJSON']: kept
      }
    case 2: // wrapped
      whole[name] = random.pick<unknown>([[former], { former }, new Map([['former', former]]), [3, former, null]])
      return whole
    case 3: // a further field
      return Array.isArray(whole)
        ? [...whole, nonsense(random)]
        : { ...whole, [`further${fields.length}`]: nonsense(random) }
    default: // deeper
      whole[name] = isDeep(former) ? change(random, former) : [former]
      return whole
  }
}

function isPlain(value: object): boolean {
  return Object.getPrototypeOf(value) === Object.prototype
}

function isDeep(value: unknown): boolean {
  return typeof value === 'object' && value !== null && (Array.isArray(value) || isPlain(value))
}
