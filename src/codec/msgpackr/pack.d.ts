/**
 * What passfd uses of msgpackr. The modules beside this file are msgpackr's own with the changes of scripts/msgpackr.mjs, which
 * `npm run build:ts` writes. They are an instance of passfd's alone: msgpackr's pack target and extension table are globals of its module.
 */

/** Record structures by id: the keys of each. */
export type Structures = (string[] | undefined)[] & { nextId?: number }

export type Packed = Buffer & { start: number; end: number }

export class Unpackr {
  constructor(options: object)
  copyBuffers: boolean
  structures: Structures
  unpack(source: Buffer, range: { start: number; end: number }): unknown
}

export class Packr extends Unpackr {
  position: number
  /** The ring of known shapes, oldest first. */
  recordIds: object[]
  moreTypes: boolean
  pack(value: unknown, mode: number): Packed
  useBuffer(buffer: Buffer): void
}

export function addExtension(extension: object): void

/** Room in the outgoing buffer. */
export type Allocate = (size: number) => { target: Buffer; targetView: DataView; position: number }
export type Pack = (value: unknown) => void
/** Writes a value that is no array and no object of keys. `rich`: with msgpackr's further types. */
export type ValuePacker = (value: never, allocate: Allocate, pack: Pack, rich: boolean) => void

/** What the encoder asks: see src/codec/encodable.ts and src/codec/refusal.ts. All of these give what is to be thrown, or throw it. */
export interface Hooks {
  readonly MAX_DEPTH: number
  /** The packer of an object that is no array and whose prototype is not Object.prototype; undefined: by its keys. */
  packerOf(value: object, prototype: object | null): ValuePacker | undefined
  /** For an object that has no keys, or those of an array. */
  checkSlots(value: object): void
  /** Some key was not well-formed. */
  checkKeys(keys: readonly string[]): void
  unfit(value: unknown): unknown
  changed(): unknown
  tooDeep(): unknown
  /** An array has more items than the body may have bytes. */
  tooLong(length: number): unknown
  within(thrown: unknown, container: object, step: string | number): unknown
}

export function useHooks(hooks: Hooks): void

/** Of the body in progress: how deep its encoder is, whether a lone surrogate was replaced, and how many items an array may have. */
export const state: { depth: number; illFormed: boolean; longest: number }

export const REUSE_BUFFER_MODE: number
export const RESERVE_START_SPACE: number
