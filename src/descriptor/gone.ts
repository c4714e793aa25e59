/** What became of a descriptor that its Descriptor has no more, in words. */
import { PassfdError } from '../base/errors.ts'
import type { Kind } from './kind.ts'
import type { Lender } from './lender.ts'

/** In a few words; the sentences are those of the errors. */
export const GONE = {
  DESCRIPTOR_CLOSED: 'closed',
  DESCRIPTOR_MOVED: 'moved',
  DESCRIPTOR_DETACHED: 'detached',
  DESCRIPTOR_CONVERTED: 'used up',
  DESCRIPTOR_UNCLAIMED: 'closed unclaimed',
  TAKEOVER_NOT_READY: 'locked'
} as const
export type Gone = keyof typeof GONE

const CALLER = { owner: 'what that call made owns it now', remedy: 'Pass a dup() to keep one' }
/** The owner of a moved descriptor, if it is not the channel and then the peer; by the call that moved it. */
const OWNERS: Record<string, { owner: string; remedy: string }> = {
  "a socket's send()": { owner: 'it belongs to the socket, then to the peer', remedy: 'Send a dup() to keep one' },
  'writeWithDescriptors()': {
    owner: 'it belongs to the stream, then to the peer',
    remedy: 'Write a dup() to keep one'
  },
  'its schema': {
    owner: 'the reply that it came with does not fit the schema, so it was closed',
    remedy: 'Have the schema accept the reply'
  }
}
for (const by of [
  'bind()',
  'connect()',
  'connectPackets()',
  'listen()',
  'listenPackets()',
  'DescriptorStream.from()',
  'PacketSocket.from()',
  'SharedMemory.map()'
])
  OWNERS[by] = CALLER

/** The error of a use afterwards. `by`: what took it; `lender`: what had lent it until its scope ended. */
export function goneError(gone: Gone, kind: Kind | undefined, by: string, lender: Lender | undefined): PassfdError {
  const details = { kind: kind ?? 'descriptor', by, ...OWNERS[by] }
  if (gone !== 'DESCRIPTOR_UNCLAIMED' || lender === undefined) return new PassfdError(gone, details)
  const { message, ended } = lender
  return new PassfdError(gone, { ...details, message, from: from(lender), ended })
}

function from({ pid }: Lender): string {
  return pid > 0 ? `pid ${pid}` : 'a process that the kernel does not name'
}
