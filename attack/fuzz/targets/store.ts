/** What clients say to a store, what it says to them, and what it gives to its successor. */
import { Descriptor } from '../../../src/descriptor/descriptor.ts'
import { readWelcome } from '../../../src/store/link.ts'
import { asOwn, isBloated, readGiven, readRequest } from '../../../src/store/messages.ts'
import { isName, isPattern, matches } from '../../../src/store/names.ts'
import { clientOf, entryOf, readState } from '../../../src/store/state.ts'
import {
  allowed,
  DESCRIPTOR,
  isCount,
  must,
  packed,
  type Target,
  type Targets,
  texts,
  valueIn,
  withOpen
} from '../target.ts'

const REQUEST = ['ERR_PASSFD_STORE_REQUEST']
const client = Buffer.alloc(16)

const requests: Target = {
  sources: /\/src\/store\/(messages|names)\./,
  seeds: () =>
    packed(
      { do: 'hello', store: 1, client, kept: [1, 2] },
      { do: 'kept', entries: [1] },
      {
        do: 'put',
        name: 'a',
        descriptors: [DESCRIPTOR],
        value: Buffer.alloc(3),
        ttl: 1000,
        poll: true,
        replace: true,
        id: 1
      },
      { do: 'put', name: 'a', descriptors: [DESCRIPTOR, DESCRIPTOR], keep: true, id: 3, seen: 2, owner: 5 },
      { do: 'take', name: 'a', owner: 0, id: 5, seen: 4 },
      { do: 'copy', name: 'a' },
      { do: 'keep', entry: 1, id: 6 },
      { do: 'release', entry: 1 },
      { do: 'list', names: 'a*', after: 3 },
      { do: 'watch', names: '*', watch: 1, owner: 0 },
      { do: 'unwatch', watch: 1 },
      { do: 'remove', name: 'a' }
    ),
  attempt(input) {
    const found = valueIn(input)
    if (found === undefined) return
    isBloated(found.value)
    const request = allowed([...REQUEST, 'ERR_PASSFD_STORE_FULL'], () => readRequest(found.value))
    if (request === undefined) return
    if ('name' in request) must(isName(request.name), 'no name')
    if ('names' in request) must(request.names === undefined || isPattern(request.names), 'no pattern')
    if ('owner' in request) must(request.owner === undefined || isCount(request.owner), 'no user')
    if ('id' in request)
      must(request.id === undefined || (isCount(request.id) && request.seen < request.id), 'no number')
    if (request.do === 'hello') must(/^[0-9a-f]{32}$/.test(request.client), 'no client')
    if (request.do !== 'put') return
    const { descriptors, value } = request
    must(descriptors.length > 0 && descriptors.every(one => one instanceof Descriptor), 'no descriptors')
    must(value === undefined || (value instanceof Uint8Array && value.length <= 65_536), 'no value')
  }
}

/** Answers of a store, and its errors. */
const answers: Target = {
  sources: /\/src\/store\/(messages|link)\./,
  seeds: () =>
    packed(
      { epoch: client, known: true, gone: [1], leases: [2] },
      { entry: 1, name: 'a', owner: 0, kinds: ['file'], descriptors: [DESCRIPTOR], value: Buffer.alloc(2) },
      {
        code: 'ERR_PASSFD_REMOTE',
        remote: { code: 'ERR_PASSFD_STORE_FULL', message: 'x', data: { what: 'a', limit: 1 } }
      },
      { code: 'ERR_PASSFD_REMOTE', remote: { code: 'ERR_PASSFD_STORE_EXISTS', message: 'x', data: { name: 'a' } } },
      { code: 'ERR_PASSFD_REMOTE', remote: { code: 'ERR_PASSFD_STORE_DENIED', message: 'x', data: [1] } },
      null
    ),
  attempt(input) {
    const found = valueIn(input)
    if (found === undefined) return
    const welcome = allowed(REQUEST, () => readWelcome(found.value))
    if (welcome !== undefined) must(/^([0-9a-f]{2})*$/.test(welcome.epoch), 'no epoch')
    withOpen(input, value => {
      const given = allowed(['ERR_PASSFD_INVALID_ARGUMENT'], () => readGiven(value))
      if (given === undefined) return []
      must(given.descriptors[0] instanceof Descriptor && Number.isSafeInteger(given.entry), 'no entry')
      return given.descriptors
    })
    if (typeof found.value === 'object' && found.value !== null) {
      const error = asOwn(found.value) as { message?: unknown }
      must(error === found.value || typeof error.message === 'string', 'no error')
    }
  }
}

const entry = { entry: 1, name: 'a', owner: 0, uid: 0, pid: 1, since: 1, poll: false, descriptors: [DESCRIPTOR] }

/** What a store's successor reads. Its predecessor is a process of the same user. */
const successors: Target = {
  sources: /\/src\/store\/(state|client-state)\./,
  seeds: () =>
    packed(
      {
        version: 1,
        epoch: client,
        next: 5,
        entries: [entry],
        clients: [{ client, uid: 0, seen: 1, done: [[2, 'x']] }]
      },
      { version: 1, epoch: client, next: 5, entries: [{ ...entry, lease: { client, id: 3, pid: 4 } }], clients: [] },
      { version: 1, epoch: client, next: 1, entries: [], clients: [] }
    ),
  attempt(input) {
    const found = valueIn(input)
    if (found === undefined) return
    const state = allowed(REQUEST, () => readState(found.value as never))
    if (state === undefined) return
    const clients = new Map(state.clients.map(one => [Buffer.from(one.client).toString('hex'), clientOf(one)]))
    for (const one of state.entries) must(isName(entryOf(one, clients).name), 'no name')
  }
}

/** A pattern, a zero byte, a name. */
const patterns: Target = {
  sources: /\/src\/store\/names\./,
  seeds: () => texts('a\0a', 'web.*\0web.main', '*\0', 'a*\0ab', 'aaaaaaaa*\0aaaaaaaaaaaaaaaaaaaaa'),
  attempt(input) {
    const [pattern, name] = input.toString('latin1').split('\0')
    if (!isPattern(pattern) || !isName(name)) return
    // Only the end may be a star
    const holds = pattern.endsWith('*') ? name.startsWith(pattern.slice(0, -1)) : name === pattern
    must(matches(pattern, name) === holds, `${pattern} and ${name}: ${matches(pattern, name)}`)
  }
}

export const storeTargets: Targets = { answers, patterns, requests, successors }
