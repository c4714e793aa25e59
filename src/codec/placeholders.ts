/** What stands for descriptors that are not here while a body is decoded or encoded anew. */
import type { Descriptor } from '../descriptor/descriptor.ts'

/** Stands for a descriptor that has been moved already while its body is encoded anew. */
export class Placeholder {
  readonly index: number
  constructor(index: number) {
    this.index = index
  }
}

/** A placeholder for a connection, whose bytes stay in the body. */
export class ConnectionPlaceholder extends Placeholder {
  readonly head: Buffer
  constructor(index: number, head: Buffer) {
    super(index)
    this.head = head
  }
}

/** Stands for `count` descriptors. */
export function placeholdersFor(count: number): Descriptor[] {
  return Array.from({ length: count }, (_, index) => new Placeholder(index)) as unknown as Descriptor[]
}
