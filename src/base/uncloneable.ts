/** What is alive in this process is no value: structuredClone() and postMessage() would make an empty object of it. */
import * as threads from 'node:worker_threads'

const { markAsUncloneable } = threads as { markAsUncloneable?(object: object): void }

/** Makes cloning it a DataCloneError, from Node 22.10 on; a mark on a prototype has no effect. It stays as it was otherwise. */
export const markUncloneable: (object: object) => void = markAsUncloneable ?? (() => {})
