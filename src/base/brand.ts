/**
 * What a value is, by its internal slots. So a value of another realm (`node:vm`, Jest, Vitest) is what it is here, and no
 * `constructor`, prototype or `Symbol.hasInstance` makes a value look like another. A Proxy is none of these.
 */
import { types } from 'node:util'

export const {
  isAnyArrayBuffer,
  isArrayBuffer,
  isBoxedPrimitive,
  isDate,
  isMap,
  isNativeError,
  isPromise,
  isProxy,
  isRegExp,
  isSet,
  isSharedArrayBuffer,
  isUint8Array
} = types

const TypedArray = Object.getPrototypeOf(Uint8Array.prototype)

/** An accessor as the language defines it: own properties of a value can't stand in front of it. */
function getter<T>(prototype: object, name: string | symbol): (value: unknown) => T {
  const { get } = Object.getOwnPropertyDescriptor(prototype, name)!
  return Function.prototype.call.bind(get as () => T)
}

const viewName = getter<string | undefined>(TypedArray, Symbol.toStringTag)
const arrayBuffer = getter<ArrayBufferLike>(TypedArray, 'buffer')
const arrayOffset = getter<number>(TypedArray, 'byteOffset')
const arrayLength = getter<number>(TypedArray, 'byteLength')
const dataBuffer = getter<ArrayBufferLike>(DataView.prototype, 'buffer')
const dataOffset = getter<number>(DataView.prototype, 'byteOffset')
const dataLength = getter<number>(DataView.prototype, 'byteLength')
const arrayKeys = TypedArray.keys

/** Returns 'Uint8Array', 'Float64Array', …, for any realm and subclass; undefined if it is no typed array. */
export function typedArrayName(value: unknown): string | undefined {
  return viewName(value)
}

/**
 * The bytes of a typed array, DataView, ArrayBuffer or SharedArrayBuffer: a Uint8Array of this realm and of a fixed length, over
 * the same memory. Throws a TypeError if that was detached, or has become too short for the view.
 */
export function bytesOf(value: ArrayBufferView | ArrayBufferLike): Uint8Array {
  if (!ArrayBuffer.isView(value)) return new Uint8Array(value, 0, arrayLength(new Uint8Array(value))) // else it might follow a resize
  if (viewName(value) === undefined) return new Uint8Array(dataBuffer(value), dataOffset(value), dataLength(value))
  const length = arrayLength(value)
  if (length === 0) arrayKeys.call(value) // which throws if the view has lost its memory
  return new Uint8Array(arrayBuffer(value), arrayOffset(value), length)
}

/** The `Symbol.toStringTag` that a value inherits: platform objects (Headers, Event, Blob …) have one, plain objects don't. */
export function inheritedTag(value: object): string | undefined {
  const prototype = Object.getPrototypeOf(value) as { [Symbol.toStringTag]?: unknown } | null
  if (prototype === null) return undefined
  const tag = Reflect.get(prototype, Symbol.toStringTag, value)
  return typeof tag === 'string' ? tag : undefined
}

/** Whether it is an AbortSignal of Node, or one of a library or jsdom that works in the same way, which Node accepts, too. */
export function isAbortSignal(value: unknown): value is AbortSignal {
  if (value instanceof AbortSignal) return true
  if (typeof value !== 'object' || value === null) return false
  const { aborted, addEventListener, removeEventListener } = value as Partial<AbortSignal>
  return (
    typeof aborted === 'boolean' && typeof addEventListener === 'function' && typeof removeEventListener === 'function'
  )
}

/** Returns a URL of this realm for a URL of any realm, by the properties that Node checks, too. Otherwise undefined. */
export function asUrl(value: unknown): URL | undefined {
  if (typeof value !== 'object' || value === null) return undefined
  const { href, protocol, origin, pathname } = value as Partial<URL>
  const isUrl = [href, protocol, origin, pathname].every(part => typeof part === 'string')
  return isUrl ? new URL(href!) : undefined
}

/** Whether it has a `then`, which `await` uses. */
export function isThenable(value: unknown): value is PromiseLike<unknown> {
  const isObject = (typeof value === 'object' && value !== null) || typeof value === 'function'
  return isObject && typeof (value as { then?: unknown }).then === 'function'
}
