/** The pipes that decide a takeover: one byte that one side gets, and the life of each side. See docs/takeover-protocol.md. */
import { checked } from '../base/errors.ts'
import { Descriptor } from '../descriptor/descriptor.ts'
import { Watcher } from '../os/loop.ts'
import { native } from '../os/native.ts'

const BYTE = Buffer.from([1])
const room = Buffer.allocUnsafeSlow(1)

/** A decision pipe: its read end, which holds one byte and has no writer. The caller owns the Descriptor. */
export function makeDecision(): Descriptor {
  const { readable, writable } = Descriptor.pipe()
  try {
    checked(native.writeNow(writable.borrow(), BYTE, 0, 1), 'write')
    return readable
  } catch (error) {
    readable.close()
    throw error
  } finally {
    writable.close()
  }
}

/**
 * Reads the byte of a decision pipe, and never blocks. Returns false if the other side has read it. Also if the read fails: then this side does not
 * have the byte, so it must act as if the other one had it.
 */
export function takeByte(decision: Descriptor): boolean {
  return native.readNow(decision.borrow(), room, 0, 1) === 1
}

/** This process's life pipe. Only this process has the write end, so the kernel ends the pipe when this process ends, in whatever way. */
export class Life {
  readonly #pipe = Descriptor.pipe()
  /** For successors, once the first pipe has the mark: only the predecessor may read that, and it may not have read it yet. */
  #unmarked: ReturnType<typeof Descriptor.pipe> | undefined = this.#pipe

  /** Returns a read end for the other side, which the caller owns. `copy` makes it. Throws the system's error if no descriptor is free. */
  readEnd(copy = (readable: Descriptor): Descriptor => readable.dup()): Descriptor {
    this.#unmarked ??= Descriptor.pipe()
    return copy(this.#unmarked.readable)
  }

  /** Writes the mark: "I serve". This side holds a read end, so the write can't fail with EPIPE. */
  mark(): void {
    checked(native.writeNow(this.#pipe.writable.borrow(), BYTE, 0, 1), 'write')
    this.#unmarked = undefined
  }

  /** Ends the pipe. Without a mark that means that this process has changed nothing. */
  end(): void {
    for (const { readable, writable } of [this.#pipe, this.#unmarked ?? this.#pipe])
      for (const descriptor of [readable, writable]) if (!descriptor.closed) descriptor.close()
  }
}

export interface LifeListener {
  /** The other side has written its mark. */
  onMark(): void
  /** The other side is dead, or has given up. */
  onEnd(): void
}

/** The other side's life pipe. The Descriptor is moved in. It does not keep the process running. */
export class OtherLife {
  readonly #end: Descriptor
  readonly #listener: LifeListener
  readonly #watcher: Watcher

  /** @throws ERR_PASSFD_DESCRIPTOR_KIND, or the system's error. Then the caller still owns the Descriptor. */
  constructor(end: Descriptor, listener: LifeListener) {
    this.#listener = listener
    this.#watcher = new Watcher(end.borrow(), () => this.look())
    this.#watcher.unref()
    this.#end = end
  }

  /** Reads the pipe. The event loop calls it, and so does code that must decide at the end of the channel. */
  look(): void {
    while (!this.#end.closed) {
      const count = native.readNow(this.#end.borrow(), room, 0, 1)
      if (count < 0) return // nothing has come, or the read has failed, which proves nothing: the loop calls again
      if (count === 1) this.#listener.onMark()
      else {
        this.close()
        this.#listener.onEnd()
      }
    }
  }

  close(): void {
    if (this.#end.closed) return
    this.#watcher.end()
    this.#end.close()
  }
}
