/** Throws the exception of a listener in a tick of its own: it is the program's, and must not disturb the reading. */
export function throwLater(error: unknown): void {
  process.nextTick(() => {
    throw error
  })
}
