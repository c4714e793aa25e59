/** A raw stream: bytes with descriptors in one direction, bytes in the other one. */
import { join } from 'node:path'
import { connect, listen } from '../../../build/dist/stream/index.js'
import { writeId } from '../round.mjs'

const DIGITS = 8
const ANSWER = 'received'

export async function far(folder) {
  const server = await listen(join(folder, 'socket'))
  server.on('acceptError', () => {})
  server.on('connection', stream => serve(stream).catch(() => stream.destroy()))
  return {}
}

/** Each eight digits are the number of the pipe whose end came with the first of them. */
async function serve(stream) {
  stream.on('error', () => {})
  let waiting = []
  let digits = ''
  try {
    for await (const { bytes, descriptors } of stream.withDescriptors()) {
      waiting.push(...descriptors)
      digits += bytes.toString('latin1')
      for (; digits.length >= DIGITS; digits = digits.slice(DIGITS)) {
        const pipe = waiting.shift()
        writeId(pipe, Number(digits.slice(0, DIGITS)))
        pipe.close()
        stream.write(ANSWER)
      }
    }
    stream.end()
  } finally {
    for (const pipe of waiting) pipe.close()
    waiting = []
  }
}

export function near(folder) {
  let pipes
  return {
    prepare(round) {
      pipes = Array.from({ length: 5 }, () => round.pipe())
    },
    async run(round) {
      const stream = await round.settled('connect', connect(join(folder, 'socket')))
      if (stream === undefined) return
      const ended = new Promise(resolve => stream.once('close', resolve))
      stream.on('error', error => round.failed('stream', error))
      let answers = ''
      stream.on('data', chunk => {
        answers += chunk
      })
      const written = pipes.map(({ id, writable }) =>
        round.attempt(
          'write',
          () =>
            new Promise((resolve, reject) => {
              const done = error => (error ? reject(error) : resolve())
              stream.writeWithDescriptors(`${id}`.padStart(DIGITS, '0'), [writable], done)
            })
        )
      )
      await Promise.all(written)
      stream.end()
      await round.settled('close', ended)
      const expected = ANSWER.repeat(pipes.length)
      if (round.mayFail ? !expected.startsWith(answers) : answers !== expected)
        round.problems.push(`the answers are ${JSON.stringify(answers)}`)
    }
  }
}
