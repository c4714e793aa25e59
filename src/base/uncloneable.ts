/** Marks live objects, of which structuredClone() and postMessage() would make an empty object. */
import * as threads from 'node:worker_threads'

const { markAsUncloneable } = threads as { markAsUncloneable?(object: object): void }

/** Makes cloning it a DataCloneError, from Node 22.10 on; a mark on a prototype has no effect. It stays as it was otherwise. */
export const markUncloneable: (object: object) => void = markAsUncloneable ?? (() => {})
