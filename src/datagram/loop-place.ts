/** A datagram socket's place on the event loop: it has none while nothing is wanted of it. */
import { keepAlive, MAX_TIMEOUT } from '../base/timers.ts'
import { Watcher } from '../os/loop.ts'
import { FAILED, READABLE, WRITABLE } from '../os/native.ts'

/** So many wake-ups in a row with nothing to read, and reading rests for so long (ms). */
const IDLE_WAKE_UPS = 16
const REST = 50

export interface PlaceOwner {
  onWritable(): void
  /** Returns whether there was anything to read. */
  onReadable(): boolean
  /** Called after a rest: read again. */
  onRested(): void
  /** There is no place (ENOSPC, ENOMEM): the socket would never hear of anything. */
  onNoPlace(error: Error): void
}

export class LoopPlace {
  readonly #fd: number
  readonly #owner: PlaceOwner
  #watcher: Watcher | undefined
  #reading = false
  #writing = false
  #referenced = true
  #holds = false
  #hold: NodeJS.Timeout | undefined
  #idleWakeUps = 0
  #rest: NodeJS.Timeout | undefined

  /** The caller still owns `fd`. */
  constructor(fd: number, owner: PlaceOwner) {
    this.#fd = fd
    this.#owner = owner
  }

  /** It keeps the process running while something is wanted of it (the default). */
  get referenced(): boolean {
    return this.#referenced
  }

  keepAlive(on: boolean): void {
    this.#referenced = on
    if (on) this.#watcher?.ref()
    else this.#watcher?.unref()
    this.holdProcess(this.#holds)
  }

  /** Sets the events that the loop reports. */
  want(reading: boolean, writing: boolean): void {
    this.#reading = reading
    this.#writing = writing
    const reads = reading && this.#rest === undefined
    if (this.#watcher === undefined) {
      if (!reads && !writing) return
      try {
        this.#watcher = new Watcher(this.#fd, events => this.#ready(events))
      } catch (error) {
        this.#owner.onNoPlace(error as Error)
        return
      }
      if (!this.#referenced) this.#watcher.unref()
    }
    this.#watcher.want(reads, writing)
  }

  /** Keeps the process running although nothing is watched: reading pauses, and what it waits for doesn't keep it running. */
  holdProcess(on: boolean): void {
    this.#holds = on
    if (on && this.#referenced) this.#hold ??= setTimeout(() => {}, MAX_TIMEOUT)
    else {
      clearTimeout(this.#hold)
      this.#hold = undefined
    }
  }

  /** To be called before the descriptor is closed. */
  end(): void {
    this.#watcher?.end()
    clearTimeout(this.#rest)
    this.holdProcess(false)
  }

  #ready(events: number): void {
    if (events & (WRITABLE | FAILED)) this.#owner.onWritable()
    const useful = events & (READABLE | FAILED) ? this.#owner.onReadable() : false
    if (events & READABLE) this.#noteWakeUp(useful)
  }

  /**
   * Another holder of the socket may have shut it down for reading. Then poll(2) reports for ever that it is readable, and there is nothing to
   * read.
   */
  #noteWakeUp(useful: boolean): void {
    if (this.#watcher?.active !== true) return // the socket has closed meanwhile
    this.#idleWakeUps = useful ? 0 : this.#idleWakeUps + 1
    if (this.#idleWakeUps < IDLE_WAKE_UPS || this.#rest !== undefined) return
    this.#idleWakeUps = 0
    this.#rest = setTimeout(() => {
      this.#rest = undefined
      this.#owner.onRested()
    }, REST)
    if (!this.#referenced) keepAlive(this.#rest, false)
    this.want(this.#reading, this.#writing)
  }
}
