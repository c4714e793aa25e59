import { EAGAIN } from '../../src/base/errno.ts'
import type { Transport } from '../../src/channel/transport.ts'
import { Codec } from '../../src/codec/codec.ts'
import { Encoded } from '../../src/codec/encoded.ts'
import { FrameReader, MESSAGE } from '../../src/codec/frame.ts'
import { BY_REFERENCE } from '../../src/codec/packers.ts'
import { test } from '../helpers/test.ts'
import { overSocket } from '../helpers/transports.ts'

/** A transport over a socket that takes as many bytes as `room` allows, and what it has taken. */
function overNarrowSocket(): { transport: Transport; taken: Buffer[]; setRoom(bytes: number): void } {
  let room = 0
  const taken: Buffer[] = []
  const take = (chunks: readonly Uint8Array[]): number => {
    const bytes = Buffer.concat(chunks).subarray(0, room)
    if (bytes.length === 0) return EAGAIN
    room -= bytes.length
    taken.push(bytes)
    return bytes.length
  }
  const { transport } = overSocket([])
  Object.assign(transport.wire, {
    send: (bytes: Uint8Array, start: number, end: number) => take([bytes.subarray(start, end)]),
    sendVector: (chunks: readonly Uint8Array[]) => take(chunks)
  })
  return {
    transport,
    taken,
    setRoom(bytes) {
      room = bytes
    }
  }
}

function queue(transport: Transport, codec: Codec, value: unknown): void {
  transport.append(codec.encode(value, 'next', new Encoded(), transport.outgoing), MESSAGE, 0, 0, undefined)
}

for (const stop of [0, 1, 1000, 3000, 3000 + BY_REFERENCE, 4000 + BY_REFERENCE])
  test(`a slab is given to nobody else as long as a part of it waits, with a hole in it or not: ${stop} bytes have left`, t => {
    const narrow = overNarrowSocket()
    const wide = overNarrowSocket()
    const codecs = [new Codec(), new Codec()] as const
    const values = Array.from({ length: 60 }, (_, index) =>
      index === 2 ? { index, block: Buffer.alloc(BY_REFERENCE, 7) } : { index, text: `${index}`.padEnd(1400, 'x') }
    )
    for (const value of values) queue(narrow.transport, codecs[0], value)
    narrow.setRoom(stop)
    narrow.transport.onWritable()
    // Somebody else takes whatever slabs are free, and fills them
    for (let i = 0; i < 100; i++) queue(wide.transport, codecs[1], { noise: 'y'.repeat(1500) })
    narrow.setRoom(Number.POSITIVE_INFINITY)
    narrow.transport.onWritable()
    wide.transport.end()
    t.is(narrow.transport.outgoing.waiting, 0)
    const came: unknown[] = []
    const area = Buffer.concat(narrow.taken)
    const reader = new FrameReader(
      {
        onFrame(frame) {
          came.push(codecs[0].decode(frame, []))
          return true
        }
      },
      area,
      0
    )
    reader.maxBody = area.length
    reader.received(area.length)
    t.deepEqual(came, values)
  })
