/** Promises whose rejection need not be caught, because an event reports the same error. */

export interface Deferred {
  readonly promise: Promise<void>
  resolve(): void
  reject(error: Error): void
}

export const RESOLVED = Promise.resolve()

export function deferred(): Deferred {
  let resolve!: () => void
  let reject!: (error: Error) => void
  const promise = quiet(
    new Promise<void>((yes, no) => {
      resolve = yes
      reject = no
    })
  )
  return { promise, resolve, reject }
}

/** Its rejection need not be caught. */
export function quiet<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {})
  return promise
}
