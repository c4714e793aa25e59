/** The hello that each side sends: its version, its limits and its first credit. */
import { isDeepStrictEqual } from 'node:util'
import { PassfdError } from '../base/errors.ts'
import { MAX_RIGHTS } from '../base/kernel-limits.ts'
import { version } from '../base/version.ts'
import type { Limits } from './options.ts'

const PROTOCOL_VERSION = 1

export interface Hello {
  readonly version: number
  readonly agent: string
  /** The longest body that it accepts, in bytes. */
  readonly maxMessage: number
  readonly maxDescriptors: number
  /** The first credit, in bytes. */
  readonly window: number
  /** The credit that one descriptor costs. */
  readonly descriptorCost: number
  readonly features: readonly string[]
}

export function sayHello(limits: Limits): Hello {
  return {
    version: PROTOCOL_VERSION,
    agent: `passfd/${version}`,
    maxMessage: limits.maxMessage,
    maxDescriptors: limits.maxDescriptors,
    window: limits.window,
    descriptorCost: limits.descriptorCost,
    features: limits.records ? ['records', 'definitions'] : []
  }
}

/** Decodes a hello. It ignores unknown keys; missing ones get the protocol's defaults. */
export function checkHello(value: unknown): Hello {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw bad('it is not a map')
  const hello = value as Record<string, unknown>
  const integer = (name: string, missing: number | undefined, min: number, max: number): number => {
    const number = hello[name] ?? missing
    if (typeof number !== 'number' || !Number.isInteger(number) || number < min || number > max)
      throw bad(`${name} is not an integer from ${min} to ${max}`)
    return number
  }
  const { agent = '', features = [] } = hello
  if (typeof agent !== 'string') throw bad('agent is not a string')
  if (!Array.isArray(features) || features.some(feature => typeof feature !== 'string'))
    throw bad('features is not a list of strings')
  return shared({
    version: Math.min(integer('version', undefined, 1, 0xffffffff), PROTOCOL_VERSION),
    agent: agent.slice(0, 128),
    maxMessage: integer('maxMessage', 65536, 0, 0xffffffff),
    maxDescriptors: Math.min(integer('maxDescriptors', 0, 0, 0xffffffff), MAX_RIGHTS),
    window: integer('window', 0, 0, 0xffffffff),
    descriptorCost: integer('descriptorCost', 1, 0, 0xffffffff),
    features
  })
}

let last: Hello | undefined

/** Most peers send the same hello, so all their channels share one object. */
function shared(hello: Hello): Hello {
  if (last === undefined || !isDeepStrictEqual(hello, last)) last = hello
  return last
}

function bad(detail: string): PassfdError {
  return new PassfdError('BAD_HELLO', { detail })
}
