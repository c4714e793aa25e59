/** The bytes of a stream in parts that begin where descriptors came. */
import { type Duplex, finished } from 'node:stream'
import type { Descriptor } from '../descriptor/descriptor.ts'

/** A part of the stream: bytes, and the descriptors that came with the first of them. */
export interface StreamPart {
  readonly bytes: Buffer
  /** The reader owns these, and closes or converts them. */
  readonly descriptors: Descriptor[]
}

export interface PartsSource {
  /** The iteration begins. */
  begin(): void
  /** Returns the bytes from `position` up to the place of the next descriptors; undefined if there are none. */
  part(position: number): StreamPart | undefined
  /** Called when the iteration ends, in whatever way. */
  end(): void
}

/**
 * Takes no more out of the stream than it gives: what is put back may come after its end. Otherwise like Node's own iterator, which
 * always takes all that is there.
 */
export async function* partsOf(
  stream: Duplex,
  source: PartsSource,
  position: number
): AsyncGenerator<StreamPart, void, undefined> {
  let wake: () => void = () => {}
  let outcome: Error | 'ended' | undefined
  const onReadable = (): void => wake()
  const ignore = finished(stream, { writable: false }, error => {
    outcome = error ?? 'ended'
    wake()
  })
  stream.on('readable', onReadable)
  source.begin()
  try {
    while (true) {
      const part = stream.destroyed ? undefined : source.part(position)
      if (part !== undefined) {
        position += part.bytes.length
        yield part
      } else if (outcome === 'ended') return
      else if (outcome !== undefined) throw outcome
      else
        await new Promise<void>(resolve => {
          wake = resolve
        })
    }
  } finally {
    stream.off('readable', onReadable)
    ignore()
    source.end()
  }
}
