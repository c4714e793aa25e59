/** Which values have no form in a message, by their internal slots, and what to send instead. `structuredClone` is the model. */
import { EventEmitter } from 'node:events'
import { types } from 'node:util'
import { inheritedTag, isProxy } from '../base/brand.ts'
import { madeElsewhere } from '../base/package-copy.ts'
import { quoted, Refusal } from './refusal.ts'

const { getPrototypeOf, prototype: ObjectPrototype } = Object

/** Values with internal slots that no message carries, and what to send instead. The first match counts. */
const SLOTS: readonly [is: (value: object) => boolean, name: string, remedy: string][] = [
  [types.isNativeError, 'Error', 'send its code and message'],
  [types.isRegExp, 'RegExp', 'send its source and flags'],
  [types.isPromise, 'Promise', 'await it first'],
  [types.isSharedArrayBuffer, 'SharedArrayBuffer', 'send a copy of its bytes, or SharedMemory of passfd/memory'],
  [types.isBoxedPrimitive, 'boxed primitive', 'send its valueOf()'],
  [types.isGeneratorObject, 'Generator', 'send [...it]'],
  [types.isArgumentsObject, 'Arguments object', 'send [...it]'],
  [types.isMapIterator, 'Map Iterator', 'send [...it]'],
  [types.isSetIterator, 'Set Iterator', 'send [...it]'],
  [types.isWeakMap, 'WeakMap', "its contents can't be seen"],
  [types.isWeakSet, 'WeakSet', "its contents can't be seen"],
  [types.isModuleNamespaceObject, 'module namespace', 'send {...it}'],
  [types.isExternal, 'native pointer', 'it means nothing in another process']
]

/** `[object Object]` for all that has none of the slots that it looks at, and no `Symbol.toStringTag`. */
const builtinTag = Function.prototype.call.bind(ObjectPrototype.toString) as (value: object) => string
const PLAIN_TAG = '[object Object]'

/** What to send instead of a platform's object, by its `Symbol.toStringTag`. */
const REMEDIES: Record<string, string> = {
  URL: 'send its href',
  URLSearchParams: 'send [...it]',
  Headers: 'send [...it]',
  FormData: 'send [...it]',
  Blob: 'send await it.arrayBuffer()',
  File: 'send its name and await it.arrayBuffer()',
  KeyObject: 'send what its export() gives',
  CryptoKey: 'export it and send that',
  WeakRef: "its contents can't be seen",
  'WebAssembly.Module': 'send the bytes that it was made of',
  'WebAssembly.Memory': 'send a copy of its bytes, or SharedMemory of passfd/memory',
  ReadableStream: 'send a Descriptor of a pipe or a socket',
  WritableStream: 'send a Descriptor of a pipe or a socket',
  EventTarget: 'send what others shall know of it'
}
const PLAIN = 'send what it holds as plain values'

/** Functions, symbols, and BigInts that the encoding has no form for. */
export function unfit(value: unknown): Refusal {
  if (typeof value === 'function') return new Refusal('is a function')
  if (typeof value === 'symbol') return new Refusal('is a symbol')
  return new Refusal('is a BigInt of more than 64 bits, which needs records at both ends: send it as a string')
}

/**
 * For an object with the prototype of a plain one that has no keys, or those of an array: what it is it may hide. `types` are calls
 * into C++, and `{}` is common: so only those are asked for that hold data.
 */
export function checkSlots(value: object): void {
  if (getPrototypeOf(value) !== ObjectPrototype) return // it was looked at before
  const tag = builtinTag(value)
  if (tag === PLAIN_TAG) {
    if (types.isMap(value) || types.isSet(value) || types.isAnyArrayBuffer(value) || ArrayBuffer.isView(value))
      throw new Refusal(`is a Map, Set, ArrayBuffer or view of one whose prototype was changed: ${PLAIN}`)
  } else if (!isProxy(value)) {
    refuseSlots(value)
    throw new Refusal(`is ${tag.slice(8, -1)}: ${PLAIN}`)
  }
}

function refuseSlots(value: object): void {
  for (const [is, name, remedy] of SLOTS) if (is(value)) throw new Refusal(`is ${a(name)}: ${remedy}`)
}

/**
 * For an object without a form of its own: returns the result of its toJSON(), or the object itself if it is encoded by its keys.
 * Throws a Refusal for what would lose what it is by that.
 */
export function plainForm(value: object, prototype: object | null): unknown {
  const tagged = builtinTag(value) !== PLAIN_TAG
  if (tagged) refuseSlots(value)
  if (prototype === null) {
    if (!tagged && Object.keys(value).length === 0) refuseSlots(value)
    return value
  }
  const ofClass = getPrototypeOf(prototype) !== null // else it is the Object.prototype of another realm, or one without methods
  if (isProxy(value)) refuseProxy(prototype)
  if (value instanceof EventEmitter || isFileHandle(value)) throw alive(value)
  if (value instanceof Error) throw new Refusal(`is ${a(nameOf(value))}: send its code and message`)
  const elsewhere = madeElsewhere(value)
  if (elsewhere !== undefined) throw new Refusal(`is ${a(elsewhere.what)} of ${elsewhere.by}`)
  const toJSON = ofClass ? (value as { toJSON?: unknown }).toJSON : undefined
  const tag = tagged ? inheritedTag(value) : undefined
  if (tag !== undefined && (typeof toJSON !== 'function' || isPlatform(tag))) {
    const name = tag.includes(' ') ? tag : nameOf(value, tag) // 'Array Iterator', of a class that has no name of its own
    throw new Refusal(
      `is ${a(name)}: ${REMEDIES[tag] ?? REMEDIES[name] ?? (tag.endsWith('Iterator') ? 'send [...it]' : PLAIN)}`
    )
  }
  if (ofClass && isNative(prototype)) throw new Refusal(`is ${a(nameOf(value))}, an object of Node itself: ${PLAIN}`)
  if (typeof toJSON === 'function') return toJSON.call(value)
  if (ofClass && Object.keys(value).length === 0)
    throw new Refusal(`is ${a(nameOf(value))} without properties of its own, so nothing of it would arrive: ${PLAIN}`)
  return value
}

/** A tag that Node and the language use. A class of a program may have one, too, and define its value by toJSON(). */
function isPlatform(tag: string): boolean {
  return tag.includes('.') || tag.includes(' ') || tag in globalThis
}

const natives = new WeakMap<object, boolean>()

/**
 * Whether a class that the prototype belongs to is one of Node's in C++ (`vm.Script`, the handle of a socket): its state is hidden there.
 * The class of `process.env` has no name: all of that object is in its properties.
 */
function isNative(prototype: object): boolean {
  let native = natives.get(prototype)
  if (native === undefined) {
    native = classesOf(prototype).some(
      ({ made, name }) => isBuiltIn(made) && name !== '' && !name.startsWith('bound ') && !(name in globalThis)
    )
    natives.set(prototype, native)
  }
  return native
}

/** The constructors along a chain of prototypes, without `Object`. */
function classesOf(prototype: object): { made: object; name: string }[] {
  const classes: { made: object; name: string }[] = []
  for (let each: object | null = prototype; each !== null; each = getPrototypeOf(each)) {
    const made: unknown = Object.getOwnPropertyDescriptor(each, 'constructor')?.value
    if (typeof made !== 'function') continue
    const name: unknown = Object.getOwnPropertyDescriptor(made, 'name')?.value // a static accessor of the program's is not called
    if (name !== 'Object') classes.push({ made, name: typeof name === 'string' ? name : '' })
  }
  return classes
}

function isBuiltIn(made: object): boolean {
  return /\{\s*\[native code\]\s*\}$/.test(Function.prototype.toString.call(made))
}

/** A Proxy has no internal slots, so nothing would arrive of a Date or a Map behind it. */
function refuseProxy(prototype: object): void {
  const builtIn = classesOf(prototype).find(({ made }) => isBuiltIn(made))
  if (builtIn !== undefined) throw new Refusal(`is a Proxy of ${a(builtIn.name)}: send what it stands for`)
}

/** In some versions of Node it is no EventEmitter. */
function isFileHandle(value: object): boolean {
  return nameOf(value) === 'FileHandle' && typeof (value as { fd?: unknown }).fd === 'number'
}

function alive(value: object): Refusal {
  const { fd, _handle, read } = value as { fd?: unknown; _handle?: unknown; read?: unknown }
  const handled = typeof _handle === 'object' && typeof read === 'function'
  const remedy = handled
    ? 'send Descriptor.from(it), or await Connection.take(it)'
    : _handle !== undefined || typeof fd === 'number' || /^(Server|Socket|FileHandle)$/.test(nameOf(value))
      ? 'send Descriptor.from(it)'
      : PLAIN
  return new Refusal(`is alive in this process (${a(nameOf(value))}): ${remedy}`)
}

/** The name of its class, which a program may have given or hidden. */
function nameOf(value: object, instead = 'object'): string {
  try {
    const name: unknown = value.constructor?.name
    if (typeof name === 'string' && /^[\w$]{1,60}$/.test(name) && name !== 'Object') return name
  } catch {
    // a getter of the program's has failed
  }
  return instead
}

function a(name: string): string {
  return `${/^[AEIO]/i.test(name) ? 'an' : 'a'} ${name}`
}

/** Keys that are well-formed may become equal. */
export function checkKeys(keys: readonly string[]): void {
  if (keys.every(key => key.isWellFormed())) return
  checkDistinct(keys)
}

/** What the decoder keeps apart: the items of a Set, or keys. */
export function checkDistinct(items: readonly unknown[]): void {
  const met = new Set<unknown>()
  for (const item of items) {
    const sent = typeof item === 'string' ? item.toWellFormed() : item
    if (met.has(sent))
      throw new Refusal(
        `has two keys or items that arrive as the same${typeof sent === 'string' ? `, ${quoted(sent)}` : ''}`
      )
    met.add(sent)
  }
}

const PLAIN_KEYS = 'towards a peer without records keys are strings, numbers, BigInts of 64 bits, booleans and null'

/**
 * The keys of a Map in the plain encoding: those that every decoder has, and none that are equal in one of them: as the strings that
 * JavaScript's objects have for keys, or as numbers, of which Python's True and 1.0 are some. `keys[i]` is that of entry i.
 */
export function checkPlainKeys(keys: readonly unknown[]): void {
  if (keys.every(isOrdinary)) return
  const met = new Set<unknown>()
  for (const [index, key] of keys.entries()) {
    const forms = formsOf(key)
    if (forms === undefined) throw keyRefusal(index, `is a key of a Map: ${PLAIN_KEYS}`)
    for (const form of forms)
      if (met.has(form))
        throw keyRefusal(index, `is a key of a Map that some peers take for another, ${quoted(String(form))}`)
    for (const form of forms) met.add(form)
  }
}

function isOrdinary(key: unknown): boolean {
  return typeof key === 'string' && key.isWellFormed()
}

function formsOf(key: unknown): readonly unknown[] | undefined {
  switch (typeof key) {
    case 'string':
      return [key.toWellFormed()]
    case 'number':
      return [String(key), Number.isInteger(key) ? BigInt(key) : key]
    case 'bigint':
      return [String(key), key]
    case 'boolean':
      return [String(key), BigInt(key)]
    default:
      return key === null || key === undefined ? ['null'] : undefined
  }
}

function keyRefusal(index: number, problem: string): Refusal {
  const refusal = new Refusal(problem)
  refusal.trail.push({ container: {}, step: { text: `.entries()[${index}][0]` } })
  return refusal
}

/** Whether it is written as a record: an object with the prototype of a plain object, whatever its slots. */
export function isPlain(value: unknown): value is object {
  return typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype
}
