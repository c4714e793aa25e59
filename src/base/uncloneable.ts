/** Marks live objects, of which structuredClone() and postMessage() would make an empty object. */
import threads from 'node:worker_threads'

// Not a namespace: a bundler would make a named import of it, which Node 20 does not have
const { markAsUncloneable } = threads as { markAsUncloneable?(object: object): void }

/** Makes cloning it a DataCloneError, from Node 22.10 on; a mark on a prototype has no effect. It stays as it was otherwise. */
export const markUncloneable: (object: object) => void = markAsUncloneable ?? (() => {})
