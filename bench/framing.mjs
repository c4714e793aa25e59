/** What is written by hand where a peer carries bytes and nothing else: msgpackr, and a length of four bytes before each message. */
import { Packr, RESERVE_START_SPACE } from 'msgpackr'

export const LENGTH = 4
export const packr = new Packr({ useRecords: false })

/** One message, for a write of its own. */
export function framed(value) {
  const bytes = packr.pack(value, RESERVE_START_SPACE | LENGTH)
  bytes.writeUInt32LE(bytes.length - LENGTH)
  return bytes
}

/** To be given each chunk; calls `receive` for each whole message. */
export function unframing(receive) {
  let kept = []
  let size = 0
  let wanted = LENGTH
  return chunk => {
    if (size > 0) {
      kept.push(chunk)
      size += chunk.length
      if (size < wanted) return
      chunk = Buffer.concat(kept, size)
      kept = []
    }
    let at = 0
    size = 0
    wanted = LENGTH
    while (chunk.length - at >= LENGTH) {
      const start = at + LENGTH
      const end = start + chunk.readUInt32LE(at)
      if (end > chunk.length) {
        wanted = end - at
        break
      }
      receive(packr.unpack(chunk, { start, end }))
      at = end
    }
    if (at === chunk.length) return
    kept = [chunk.subarray(at)]
    size = chunk.length - at
  }
}
