/** What a peer says of itself and of its errors, and where datagrams come from. */
import { decodeError, encodeFault, peerError } from '../../../src/channel/fault.ts'
import { checkHello, sayHello } from '../../../src/channel/hello.ts'
import { channelLimits } from '../../../src/channel/options.ts'
import { decodePlain } from '../../../src/codec/plain.ts'
import { addressOf, destinationOf } from '../../../src/datagram/address.ts'
import { allowed, isCount, isSame, must, packed, type Target, type Targets, texts } from '../target.ts'

/** docs/protocol.md: a body without descriptors may name one all the same. */
const DECODE_ERRORS = ['ERR_PASSFD_UNDECODABLE', 'ERR_PASSFD_DESCRIPTOR_COUNT']

const bodyOf = (input: Buffer) => ({ bytes: input, start: 0, end: input.length, flags: 0, owned: true })

const hellos: Target = {
  sources: /\/src\/(channel\/hello|codec\/plain)\./,
  seeds: () =>
    packed(
      sayHello(channelLimits({})),
      { version: 1 },
      { version: 4294967295, agent: 'x', maxMessage: 0, maxDescriptors: 300, window: 0, features: [] },
      { version: 1, descriptorCost: 7, features: ['records', 'other'], unknown: [1] }
    ),
  attempt(input) {
    const value = allowed(DECODE_ERRORS, () => ({ value: decodePlain(bodyOf(input)) }))
    if (value === undefined) return
    const hello = allowed(['ERR_PASSFD_BAD_HELLO'], () => checkHello(value.value))
    if (hello === undefined) return
    const { agent, features, version, ...limits } = hello
    must(version === 1, `version ${version}`)
    must(agent.length <= 128, `an agent of ${agent.length} characters`)
    must(limits.maxDescriptors <= 253, `${limits.maxDescriptors} descriptors`)
    for (const [name, limit] of Object.entries(limits)) must(isCount(limit) && limit < 2 ** 32, `${name} is ${limit}`)
    must(
      features.every(one => typeof one === 'string'),
      'a feature that is no text'
    )
  }
}

const SPACE = { slab: Buffer.alloc(65_536), slabEnd: 0 }

/** Faults and goodbyes: what they tell is text, can be told on, and is bounded then. */
const errors: Target = {
  sources: /\/src\/channel\/fault\./,
  seeds: () => [
    Buffer.alloc(0),
    ...packed({ code: 'ERR_A', message: 'a message' }, { code: 5, message: null, data: { a: [1] } }, { data: 'x' }, {})
  ],
  attempt(input) {
    const remote = allowed(DECODE_ERRORS, () => decodeError(bodyOf(input), true))
    if (remote === undefined) return
    must(typeof remote.code === 'string' && typeof remote.message === 'string', 'it is no text')
    const { code, message } = peerError(remote)
    must(code === 'ERR_PASSFD_PEER' && typeof message === 'string', 'the error is none of passfd')
    const limit = 100
    const told = encodeFault(
      { code: remote.code.slice(0, 64), message: remote.message, data: remote.data },
      limit,
      SPACE
    )
    must(told.length <= limit, `${told.length} bytes for a peer that takes ${limit}`)
  }
}

/** The name of a socket as the kernel reports it. */
const addresses: Target = {
  sources: /\/src\/(datagram\/address|os\/socket-name)\./,
  seeds: () =>
    texts('/run/a.sock', '\0abstract', '\0', 'relative', '/proc/self/fd/3', '\0\xff\xfe', '/'.padEnd(108, 'x')),
  attempt(input) {
    // The shim ends a path at its first zero byte
    const end = input[0] === 0 ? -1 : input.indexOf(0)
    const bytes = input.subarray(0, end < 0 ? 108 : Math.min(end, 108))
    const address = addressOf(bytes)
    if (address === undefined) return
    const again = destinationOf(address).use(used => Buffer.from(used))
    must(isSame(again, Buffer.from(bytes)), 'an answer goes to another address')
  }
}

export const channelTargets: Targets = { addresses, errors, hellos }
