/** What the two sides of a takeover, and those who ask for its status, say to each other. */

import { Descriptor } from '../../../src/descriptor/descriptor.ts'
import {
  checkVersion,
  readAsked,
  readChain,
  readFrozen,
  readOffer,
  readPart,
  readStatePart,
  readStatus
} from '../../../src/takeover/messages.ts'
import { LockedState } from '../../../src/takeover/state.ts'
import { allowed, DESCRIPTOR, isCount, must, packed, type Target, type Targets, valueIn } from '../target.ts'

const PROTOCOL = ['ERR_PASSFD_TAKEOVER_PROTOCOL']
const program = { pid: 1, passfd: '0.1.0', runtime: 'v20' }
const life = DESCRIPTOR
const listener = { name: 'a', lane: 0, kind: 'tcp-listener', options: { port: 80 }, listener: DESCRIPTOR }

const isName = (name: unknown): boolean => typeof name === 'string' && name !== '' && name.length <= 255

const candidates: Target = {
  sources: /\/src\/takeover\/messages\./,
  seeds: () =>
    packed(
      {
        do: 'begin',
        takeover: 1,
        needs: ['a'],
        program,
        wants: ['http'],
        service: { unit: 'a.service', own: true },
        life
      },
      { do: 'begin', takeover: 1, needs: [], program, service: { own: false }, life },
      { do: 'more', from: 0 },
      { do: 'drops', names: ['a', 'b'] },
      { do: 'freeze', accepts: { a: 1 } },
      { do: 'state', part: 0 },
      { do: 'status' }
    ),
  attempt(input) {
    const found = valueIn(input)
    if (found === undefined) return
    const asked = allowed(PROTOCOL, () => readAsked(found.value))
    if (asked === undefined) return
    if (asked.do === 'more') must(isCount(asked.from), 'no place')
    if (asked.do === 'state') must(isCount(asked.part), 'no part')
    if (asked.do === 'drops') must(asked.names.every(isName) && asked.names.length <= 4096, 'no names')
    if (asked.do !== 'begin') return
    must(asked.life instanceof Descriptor, 'no pipe')
    must([...asked.needs, ...(asked.wants ?? [])].every(isName), 'no names')
    must(isCount(asked.program.pid) && typeof asked.program.runtime === 'string', 'no program')
    allowed(['ERR_PASSFD_TAKEOVER_VERSION'], () => checkVersion(asked))
  }
}

const owners: Target = {
  sources: /\/src\/takeover\/messages\./,
  seeds: () =>
    packed(
      { owner: program, generation: 1, since: 0, waiting: [1, 2], candidate: 3, chain: [{ pid: 1, connections: 2 }] },
      { listeners: [listener, listener], takeover: 1, needs: [], program, generation: 1, total: 2, path: life, life },
      { listeners: [listener], decision: DESCRIPTOR },
      { parts: 1, bytes: 0, descriptors: 0 },
      { bytes: Buffer.alloc(3), descriptors: [DESCRIPTOR] }
    ),
  attempt(input) {
    const found = valueIn(input)
    if (found === undefined) return
    const { value } = found
    const offer = allowed(PROTOCOL, () => readOffer(value))
    if (offer !== undefined) must(offer.life instanceof Descriptor && isCount(offer.total), 'no offer')
    const part = allowed(PROTOCOL, () => readPart(value))
    for (const one of part?.listeners ?? [])
      must(isName(one.name) && isCount(one.lane) && one.listener instanceof Descriptor, 'no listener')
    const frozen = allowed(PROTOCOL, () => readFrozen(value))
    if (frozen !== undefined) must(Object.values(frozen).every(isCount) && frozen.parts > 0, 'no sizes')
    const state = allowed(PROTOCOL, () => readStatePart(value))
    if (state !== undefined)
      must(
        state.descriptors.every(one => one instanceof Descriptor),
        'no descriptor'
      )
    const status = allowed(PROTOCOL, () => readStatus(value))
    if (status !== undefined) must([status.since, ...status.waiting].every(isCount), 'no status')
    for (const one of readChain((value as { chain?: unknown } | null)?.chain))
      must(Number.isSafeInteger(one.pid) && Number.isSafeInteger(one.connections), 'no process')
  }
}

/** The state itself, in two parts. */
const states: Target = {
  sources: /\/src\/(takeover\/state|codec\/wide)\./,
  seeds: () => packed(1, { a: [1, 2] }, 'text', [{ a: 1 }, { a: 2 }]),
  attempt(input) {
    const middle = input.length >> 1
    const parts = [input.subarray(0, middle), input.subarray(middle)].map(bytes => ({ bytes, descriptors: [] }))
    const state = allowed(['ERR_PASSFD_UNDECODABLE', 'ERR_PASSFD_DESCRIPTOR_COUNT'], () => new LockedState(parts))
    if (state === undefined) return
    must(state.connections === 0, 'a connection from nowhere')
    state.unlock()
  }
}

export const takeoverTargets: Targets = { candidates, owners, states }
