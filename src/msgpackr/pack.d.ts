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

export const REUSE_BUFFER_MODE: number
export const RESERVE_START_SPACE: number
