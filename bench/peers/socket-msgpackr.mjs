/**
 * What one would write by hand: a net.Socket, msgpackr, a length of four bytes before each message. In its strongest form: the
 * messages of a turn are packed one behind the other into one buffer and leave in one write; the far end decodes where the bytes stand.
 */
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import { Packr, RESET_BUFFER_MODE, REUSE_BUFFER_MODE } from 'msgpackr'
import {
  address,
  bulk,
  checkBlock,
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

const LENGTH = 4
const TURN = 65536
const packr = new Packr({ useRecords: false })

/** Collects the messages of a turn in one buffer, behind their lengths. */
class Writer {
  #socket
  #buffer = Buffer.allocUnsafeSlow(TURN)
  #end = 0

  constructor(socket) {
    this.#socket = socket
  }

  send(value) {
    if (this.#end === 0) process.nextTick(() => this.flush())
    const packed = packr.pack(value, REUSE_BUFFER_MODE | RESET_BUFFER_MODE)
    const { start, end } = packed
    if (this.#end + LENGTH + end - start > TURN) this.flush()
    this.#buffer.writeUInt32LE(end - start, this.#end)
    packed.copy(this.#buffer, this.#end + LENGTH, start, end)
    this.#end += LENGTH + end - start
  }

  /** Writes what there is; false when the socket is full. */
  flush() {
    if (this.#end === 0) return !this.#socket.writableNeedDrain
    const buffer = this.#buffer.subarray(0, this.#end)
    this.#buffer = Buffer.allocUnsafeSlow(TURN)
    this.#end = 0
    return this.#socket.write(buffer)
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

/** Calls `receive` for each whole message. */
function read(socket, receive) {
  let kept = []
  let size = 0
  let wanted = LENGTH
  socket.on('data', chunk => {
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
  })
}

function far() {
  const server = createServer(socket => {
    const tally = new Tally()
    const writer = new Writer(socket)
    read(socket, value => {
      const report = tally.take(value)
      if (value.block !== undefined) checkBlock(value)
      if (report !== undefined || value.answer) writer.send(report ?? { id: value.id })
    })
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
  const { mark, request } = answered(socket, writer)
  await measure(workloads[workload](writer, mark, request, socket), mark)
  socket.end()
}

/** Requests by hand: an id each. */
function answered(socket, writer) {
  const pending = new Map()
  read(socket, answer => {
    const resolve = pending.get(answer.id)
    pending.delete(answer.id)
    resolve(answer)
  })
  const ask = value =>
    new Promise(resolve => {
      pending.set(value.id, resolve)
      writer.send(value)
    })
  return { mark: (what = true) => ask({ mark: what }), request: id => ask({ ...small(id), answer: true }) }
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
