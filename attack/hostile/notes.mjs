// With --import, in each process of NOTES_IN: writes what passfd sends to the file of NOTES, or what it sends by the number NOTES_FD.
import { appendFileSync } from 'node:fs'

const { NOTES, NOTES_IN, NOTES_FD } = process.env
if (process.argv[1]?.endsWith(NOTES_IN)) {
  const { native } = await import('../../build/dist/os/native.js')
  for (const name of ['send', 'sendMessage']) {
    const real = native[name]
    native[name] = (fd, bytes, start, end, fds, first, count, ...rest) => {
      const result = real.call(native, fd, bytes, start, end, fds, first, count, ...rest)
      if (result > 0 && (NOTES_FD === undefined || fd === Number(NOTES_FD))) {
        const sent = Buffer.from(bytes.buffer, bytes.byteOffset + start, result).toString('base64')
        appendFileSync(NOTES, `${JSON.stringify({ process: process.pid, fd, sent, count })}\n`)
      }
      return result
    }
  }
}
