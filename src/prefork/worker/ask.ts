/** Asks the supervisor for a listener, and waits for the answer without the event loop: see control/desk.ts. */
import { EAGAIN, ECONNREFUSED, EINTR } from '../../base/errno.ts'
import { checked, PassfdError, systemError } from '../../base/errors.ts'
import { type Descriptor, own } from '../../descriptor/descriptor.ts'
import { peerOf, sameUserOrRoot } from '../../descriptor/peer.ts'
import { discard } from '../../os/loop.ts'
import { MESSAGE_FIRST, native, RESULT_DESCRIPTORS, RESULT_FLAGS, TRUNCATED } from '../../os/native.ts'
import { RECEIVED } from '../../os/raw-socket.ts'
import { PACKETS, withNameBytes } from '../../os/socket-name.ts'
import { type Answer, type Ask, MAX_PACKET } from '../control/desk.ts'

/** How long the supervisor may take, in ms. It may be busy, or wait for a lock on a socket's folder. */
const PATIENCE = 30_000
const LONGEST_NAP = 5
const NOTHING = new Int32Array(1)
const NAME = Buffer.alloc(108)
const sleeper = new Int32Array(new SharedArrayBuffer(4))

/**
 * Returns the answer with its descriptors, which the caller owns. `desk`: the abstract name of the socket. `timeout`: how long the supervisor may
 * take, in ms. Throws the system's error if nobody listens there, or ERR_PASSFD_SUPERVISOR_SILENT.
 */
export function ask(desk: string, question: Ask, timeout = PATIENCE): { answer: Answer; descriptors: Descriptor[] } {
  const deadline = performance.now() + timeout
  const fd = checked(native.socket(PACKETS), 'socket')
  try {
    const until = (call: () => number, name: string): number => {
      for (let nap = 0.25; ; nap = Math.min(2 * nap, LONGEST_NAP)) {
        const result = call()
        if (result !== EAGAIN && result !== EINTR) return checked(result, name)
        if (performance.now() > deadline) throw new PassfdError('SUPERVISOR_SILENT', { timeout })
        Atomics.wait(sleeper, 0, 0, nap)
      }
    }
    until(() => withNameBytes({ abstract: desk }, bytes => native.connect(fd, bytes)), 'connect')
    // Any user can listen at an abstract name that has become free
    if (!sameUserOrRoot(peerOf(fd))) throw systemError(ECONNREFUSED, 'connect')
    const bytes = Buffer.from(JSON.stringify(question))
    until(() => native.sendMessage(fd, bytes, 0, bytes.length, NOTHING, 0, 0, null), 'sendmsg')
    const packet = Buffer.alloc(MAX_PACKET)
    const length = until(() => native.receiveMessage(fd, packet, 0, packet.length, RECEIVED, NAME, false), 'recvmsg')
    const fds = Array.from(RECEIVED.subarray(MESSAGE_FIRST, MESSAGE_FIRST + RECEIVED[RESULT_DESCRIPTORS]!))
    if ((RECEIVED[RESULT_FLAGS]! & TRUNCATED) !== 0) {
      discard(fds)
      throw new PassfdError('DESCRIPTORS_TRUNCATED')
    }
    try {
      return { answer: readAnswer(packet.toString('utf8', 0, length), fds.length), descriptors: fds.map(own) }
    } catch (error) {
      discard(fds)
      throw error
    }
  } finally {
    native.close(fd)
  }
}

/** Reads an answer that came with so many descriptors. Throws ERR_PASSFD_DISCONNECTED for the end, and ERR_PASSFD_DESCRIPTOR_COUNT. */
function readAnswer(text: string, count: number): Answer {
  if (text === '') throw new PassfdError('DISCONNECTED')
  const answer = JSON.parse(text) as Answer
  const expected = answer.type !== 'granted' ? 0 : answer.welcome === undefined ? 1 : 3
  if (count !== expected)
    throw new PassfdError('DESCRIPTOR_COUNT', {
      detail: `${count} instead of ${expected} with the answer ${answer.type}`
    })
  return answer
}
