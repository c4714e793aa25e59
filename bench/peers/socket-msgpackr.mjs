/**
 * What one would write by hand: a net.Socket, msgpackr, a length of four bytes before each message. In its strongest form: the
 * messages of a turn are packed one behind the other into one buffer and leave in one write; the far end decodes where the bytes stand.
 * One request at a time is written at once: there is nothing to wait for.
 */
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import { RESET_BUFFER_MODE, REUSE_BUFFER_MODE } from 'msgpackr'
import { framed, LENGTH, packr, unframing } from '../framing.mjs'
import {
  address,
  answered,
  answerTo,
  bulk,
  isFar,
  measure,
  oneWay,
  pipelined,
  roundTrips,
  small,
  socketPath,
  startFar,
  Tally,
  workload
} from '../workload.mjs'

const TURN = 65536
const AT_ONCE = workload === 'request'

/** Collects the messages of a turn in one buffer, behind their lengths. */
class Writer {
  #socket
  #buffer = Buffer.allocUnsafeSlow(TURN)
  /** Where this turn's begin: what stands before has been written and may still be read. */
  #start = 0
  #end = 0

  constructor(socket) {
    this.#socket = socket
  }

  send(value) {
    if (AT_ONCE) return void this.#socket.write(framed(value))
    if (this.#end === this.#start) process.nextTick(() => this.flush())
    const packed = packr.pack(value, REUSE_BUFFER_MODE | RESET_BUFFER_MODE)
    const { start, end } = packed
    if (this.#end + LENGTH + end - start > TURN) this.#renew()
    this.#buffer.writeUInt32LE(end - start, this.#end)
    packed.copy(this.#buffer, this.#end + LENGTH, start, end)
    this.#end += LENGTH + end - start
  }

  /** Writes what there is; false when the socket is full. */
  flush() {
    if (this.#end === this.#start) return !this.#socket.writableNeedDrain
    const bytes = this.#buffer.subarray(this.#start, this.#end)
    this.#start = this.#end
    return this.#socket.write(bytes)
  }

  #renew() {
    this.flush()
    this.#buffer = Buffer.allocUnsafeSlow(TURN)
    this.#start = 0
    this.#end = 0
  }

  /** A large value is not copied once more. */
  async sendLarge(value) {
    const body = packr.pack(value)
    const length = Buffer.allocUnsafe(LENGTH)
    length.writeUInt32LE(body.length)
    this.#socket.cork()
    this.#socket.write(length)
    const room = this.#socket.write(body)
    this.#socket.uncork()
    if (!room) await once(this.#socket, 'drain')
  }
}

function far() {
  const server = createServer(socket => {
    const tally = new Tally()
    const writer = new Writer(socket)
    const receive = value => {
      const answer = answerTo(value, tally)
      if (answer !== undefined) writer.send(answer)
    }
    socket.on('data', unframing(receive))
    socket.once('close', () => server.close())
  })
  server.listen(address, () => console.log('listening'))
}

async function near() {
  const path = socketPath()
  await startFar(path)
  const socket = connect(path)
  await once(socket, 'connect')
  const writer = new Writer(socket)
  const { mark, request, receive } = answered(value => writer.send(value))
  socket.on('data', unframing(receive))
  await measure(workloads[workload](writer, mark, request, socket), mark)
  socket.end()
}

const workloads = {
  messages: (writer, mark, _, socket) =>
    oneWay({
      mark,
      burst: async (first, count) => {
        for (let id = first; id < first + count; id++) writer.send(small(id))
        if (!writer.flush()) await once(socket, 'drain')
      }
    }),
  request: (_, mark, request) => roundTrips({ mark, request }),
  'requests-pipelined': (_, mark, request) => pipelined({ mark, request, inFlight: 100 }),
  bulk: (writer, mark) => bulk({ mark, send: value => writer.sendLarge(value) })
}

await (isFar ? far() : near())
