/** Reads what both ends write and checks the rules of the protocol, knowing nothing of how they come by it. */
import { unpack } from 'msgpackr'
import type { Monitor } from './fake-wire.ts'
import type { Side } from './ledger.ts'

const [HELLO, MESSAGE, REQUEST, REPLY, FAULT, CANCEL, CREDIT, TAKEN, GOODBYE, DEFINITIONS] = [
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9
]
const NAMES = ['hello', 'message', 'request', 'reply', 'fault', 'cancel', 'credit', 'taken', 'goodbye', 'definitions']
const RECORDS = 8
const AHEAD = 253

export interface SeenFrame {
  kind: number
  count: number
  flags: number
  id: number
  body: unknown
}

interface Hello {
  window: number
  descriptorCost: number
  maxMessage: number
  maxDescriptors: number
  features: string[]
}

class Direction {
  rest: Buffer = Buffer.alloc(0)
  /** Where in the stream `rest` begins. */
  offset = 0
  written = 0
  /** Where each descriptor was attached. */
  attachedAt: number[] = []
  used = 0
  hello: Hello | undefined
  goodbye: string | undefined
  /** Requests without an answer: id to allowance. */
  readonly requests = new Map<number, number>()
  readonly cancelled = new Set<number>()
  spent = 0
  granted = 0
  taken = 0
  frames = 0
}

export class WireMonitor implements Monitor {
  readonly left = new Direction()
  readonly right = new Direction()
  /** The latest frames, for looking at a failure. */
  readonly log: string[] = []
  readonly #report: (problem: string) => void
  /** Frames of that kind so far. */
  definitions = 0
  /** Someone writes what they should not: nothing is checked any more. */
  off = false

  constructor(report: (problem: string) => void) {
    this.#report = report
  }

  wrote(side: Side, bytes: Buffer, count: number): void {
    if (this.off) return
    const direction = this[side]
    for (let i = 0; i < count; i++) direction.attachedAt.push(direction.written)
    direction.written += bytes.length
    direction.rest = direction.rest.length === 0 ? bytes : Buffer.concat([direction.rest, bytes])
    for (;;) {
      const { rest } = direction
      if (rest.length < 12) break
      const size = 12 + rest.readUInt32LE(0) + (rest[6]! & 7)
      if (rest.length < size) break
      this.#frame(side, direction, rest)
      direction.rest = rest.subarray(size)
      direction.offset += size
    }
    if (direction.attachedAt.length - direction.used > AHEAD) this.#report(`${side}: too many descriptors ahead`)
  }

  /** What one end may still be sent, as it has said. */
  credit(sender: Side): number {
    return (this[other(sender)].hello?.window ?? 0) + this[sender].granted - this[sender].spent
  }

  /** True if nothing stands half written. */
  between(side: Side): boolean {
    return this[side].rest.length === 0 && this[side].attachedAt.length === this[side].used
  }

  #frame(side: Side, direction: Direction, bytes: Buffer): void {
    const length = bytes.readUInt32LE(0)
    const kind = bytes[4]!
    const count = bytes[5]!
    const flags = bytes.readUInt16LE(6)
    const id = bytes.readUInt32LE(8)
    const peer = this[other(side)]
    const body = bytes.subarray(12, 12 + length)
    const wrong = (what: string): void => this.#report(`${side}: ${NAMES[kind]} ${id}: ${what}`)
    this.log.push(`${side} writes ${NAMES[kind]} ${id} with ${count}, ${length} bytes`)
    direction.frames++

    if (kind > DEFINITIONS) wrong('unknown kind')
    if (direction.frames === 1 && kind !== HELLO && kind !== GOODBYE) wrong('before hello')
    if (direction.frames > 1 && kind === HELLO) wrong('twice')
    if (direction.goodbye !== undefined && direction.goodbye !== '') wrong('after a final goodbye')
    if (direction.goodbye === '' && ![REPLY, FAULT, TAKEN, DEFINITIONS].includes(kind)) wrong('after goodbye')
    // The second frame may be a goodbye from one who hasn't heard the other's hello
    if (direction.frames > 2 && length > peer.hello!.maxMessage) wrong(`${length} bytes`)
    if (kind > HELLO && kind !== GOODBYE && peer.hello === undefined) wrong("before the peer's hello")
    if (flags & ~(7 | (carries(kind) || kind === DEFINITIONS ? RECORDS : 0) | (kind === REQUEST ? 0xff00 : 0)))
      wrong(`flags ${flags}`)
    if (flags & RECORDS && !(records(direction) && records(peer))) wrong('records were not agreed on')
    if (count > 0 && !carries(kind)) wrong(`${count} descriptors`)
    for (let i = direction.used; i < direction.used + count; i++)
      if ((direction.attachedAt[i] ?? Number.POSITIVE_INFINITY) > direction.offset) wrong('descriptors come too late')
    direction.used += count

    switch (kind) {
      case HELLO:
        direction.hello = unpack(body) as Hello
        break
      case MESSAGE:
      case REQUEST:
        if (this.credit(side) <= 0) wrong('without credit')
        if (count > peer.hello!.maxDescriptors) wrong(`${count} descriptors`)
        direction.spent += 12 + length + count * peer.hello!.descriptorCost
        if (kind === MESSAGE) break
        if (direction.requests.has(id)) wrong('the id is pending')
        direction.requests.set(id, flags >>> 8)
        break
      case REPLY:
      case FAULT: {
        const allowance = peer.requests.get(id)
        if (allowance === undefined) wrong('nobody asked')
        else if (count > allowance) wrong(`${count} descriptors, ${allowance} are allowed`)
        peer.requests.delete(id)
        break
      }
      case CANCEL:
        if (direction.cancelled.has(id)) wrong('twice')
        direction.cancelled.add(id)
        break
      case CREDIT:
        peer.granted += id
        if (this.credit(other(side)) > direction.hello!.window) wrong('more credit than the window')
        break
      case TAKEN:
        direction.taken += id
        if (direction.taken > peer.attachedAt.length) wrong('more than was sent')
        break
      case DEFINITIONS:
        if (!(flags & RECORDS)) wrong('without records')
        if (!(understands(direction) && understands(peer))) wrong('it was not agreed on')
        if (id > AHEAD) wrong(`${id} descriptors`)
        this.definitions++
        break
      case GOODBYE:
        direction.goodbye = ((length === 0 ? {} : unpack(body)) as { code?: string }).code ?? ''
        break
    }
  }
}

export function other(side: Side): Side {
  return side === 'left' ? 'right' : 'left'
}

function carries(kind: number): boolean {
  return kind === MESSAGE || kind === REQUEST || kind === REPLY
}

function understands({ hello }: Direction): boolean {
  return hello?.features.includes('definitions') ?? false
}

function records({ hello }: Direction): boolean {
  return hello?.features.includes('records') ?? false
}
