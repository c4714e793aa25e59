/** What one round of a scenario has promised, and whether it was kept. */
import { writeSync } from 'node:fs'
import { Descriptor } from '../../build/dist/index.js'

/** How long anything may take, in ms. It ends only a round that has found something, so that a machine with other work does not look like a fault. */
export const PATIENCE = Number(process.env.PATIENCE ?? 60_000)
/** For the limits that a program gives passfd, in a round to which nothing is done. */
const AMPLE = 30_000

/** Errors that a program may get: passfd's own, the system's, and Node's for a stream or a request that has ended. */
const isNamed = error =>
  error instanceof Error &&
  (/^(ERR_PASSFD_|E[A-Z0-9]+$|ERR_STREAM_|ERR_SOCKET_)/.test(error.code ?? '') || error.name === 'AbortError')

let ids = 0

export class Round {
  /** [what, 'ok' or the error's code, and its errno if it has one] */
  outcomes = []
  problems = []
  /** The process at the far end has been killed. */
  alone = false
  /** Of those that the scenario has, if it has any. */
  variant
  #mayFail
  #pipes = []
  #closers = []

  constructor(mayFail, variant) {
    this.#mayFail = mayFail
    this.variant = variant
  }

  get mayFail() {
    return this.#mayFail
  }

  /** A limit of time for passfd: so many ms in a round that may fail, and ample time in one that must succeed. */
  limit(ms) {
    return this.#mayFail ? ms : AMPLE
  }

  /** Waits until `promise` is settled, as it must be; gives its value, or undefined if it was rejected by an error that has a code. */
  async settled(what, promise) {
    let timer
    const late = new Promise(resolve => {
      const start = () => {
        const due = performance.now() + PATIENCE
        timer = setTimeout(() => {
          // This process was stopped meanwhile: what it waits for had no time, either
          if (performance.now() > due + PATIENCE / 4) start()
          else resolve('late')
        }, PATIENCE)
      }
      start()
    })
    try {
      const first = await Promise.race([promise.then(value => ({ value })), late])
      if (first === 'late') {
        this.problems.push(`${what} is not settled`)
        promise.catch?.(() => {})
        return undefined
      }
      this.outcomes.push([what, 'ok'])
      return first.value
    } catch (error) {
      this.failed(what, error)
      return undefined
    } finally {
      clearTimeout(timer)
    }
  }

  /** As `settled`, for what may also throw at once. */
  attempt(what, work) {
    return this.settled(what, (async () => work())())
  }

  failed(what, error) {
    this.outcomes.push([what, error?.code ?? error?.name ?? 'an error', error?.errno ?? error?.cause?.errno])
    if (!isNamed(error)) this.problems.push(`${what} fails without a code: ${error?.stack ?? error}`)
  }

  /** A pipe whose writing end is to be sent: whoever gets it writes its number and closes it. */
  pipe() {
    const { readable, writable } = Descriptor.pipe()
    const pipe = { id: ++ids, readable, writable, writtenBy: '' }
    this.#pipes.push(pipe)
    return pipe
  }

  /** Something that the round must have closed at its end. */
  later(close) {
    this.#closers.push(close)
  }

  /** Closes what is left, and checks that nobody holds a pipe's end any more, and that each was written to by its own receiver, once at most. */
  async finish() {
    for (const close of this.#closers.splice(0).reverse()) await this.attempt('the end', close)
    for (const { id, readable, writable } of this.#pipes.splice(0)) {
      if (!writable.closed) writable.close()
      const text = await this.settled('the end of a pipe', textOf(readable))
      if (text === undefined) this.problems.push(`somebody holds the pipe of ${id}`)
      // In a round to which nothing was done each descriptor must have reached its receiver
      else if (text === '' && !this.#mayFail) this.problems.push(`nobody has received the pipe of ${id}`)
      else if (text !== '' && text !== `${id}\n`) this.problems.push(`the pipe of ${id} says ${JSON.stringify(text)}`)
    }
  }
}

/** What receivers do with a pipe's end: write the number that came with it. */
export function writeId(descriptor, id) {
  try {
    writeSync(descriptor.borrow(), `${id}\n`)
  } catch (error) {
    // The process that reads it was killed; and whoever keeps to no rule has sent something else
    if (error.code !== 'EPIPE' && process.env.HOSTILE === undefined) throw error
  }
}

async function textOf(readable) {
  let text = ''
  for await (const chunk of readable.toReadable()) text += chunk
  return text
}
