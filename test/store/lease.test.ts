/** What becomes of a lease, by what its client hears: with a client that does what the test says. */
import { Descriptor } from '../../src/index.ts'
import { StoreLease } from '../../src/store/lease.ts'
import type { Given } from '../../src/store/messages.ts'
import { test } from '../helpers/test.ts'

const code = (key: string) => ({ code: `ERR_PASSFD_${key}` })

/** A lease, and what it asks of its client. `meanwhile`: what the client hears while `keep()` or `release()` is under way. */
function leased(meanwhile: (lease: StoreLease) => void = () => {}) {
  const asked: string[] = []
  const given = {
    entry: 7,
    name: 'a',
    owner: 0,
    kinds: ['memfd'],
    descriptors: [Descriptor.memfd()]
  } as unknown as Given
  const settle = async (what: string, lease: StoreLease): Promise<void> => {
    asked.push(what)
    meanwhile(lease)
    lease.checkNotOver() // as the request is sent again
  }
  const lease: StoreLease = new StoreLease(given, {
    keep: () => settle('keep', lease),
    release: () => settle('release', lease),
    over: () => asked.push('over'),
    putBack: async (_, descriptors) => {
      asked.push('putBack')
      for (const one of descriptors) one.close()
    }
  })
  return { lease, asked }
}

test('keep and release ask the store once', async t => {
  const kept = leased()
  await kept.lease.keep()
  t.deepEqual(kept.asked, ['keep', 'over'])
  await t.throwsAsync(kept.lease.keep(), code('STORE_LEASE_OVER'))
  await kept.lease[Symbol.asyncDispose]()
  t.false(kept.lease.descriptor.closed)
  kept.lease.descriptor.close()
  const released = leased()
  await released.lease[Symbol.asyncDispose]()
  t.deepEqual(released.asked, ['release', 'over'])
  t.true(released.lease.descriptor.closed)
})

test('a store that has died leaves a lease to its client; one that has said goodbye does not', async t => {
  const own = leased()
  own.lease.storeWasLost(true)
  await own.lease.keep()
  t.deepEqual(own.asked, ['over'])
  own.lease.descriptor.close()
  const back = leased()
  back.lease.storeWasLost(true)
  await back.lease.release()
  t.deepEqual(back.asked, ['over', 'putBack'])
  const used = leased()
  used.lease.storeWasLost(true)
  used.lease.descriptor.close()
  await used.lease.release()
  t.deepEqual(used.asked, ['over'])
  const over = leased()
  over.lease.storeWasLost(false)
  for (const settle of ['keep', 'release'] as const) await t.throwsAsync(over.lease[settle](), code('STORE_LEASE_OVER'))
  over.lease.descriptor.close()
})

test('while keep() is under way its answer decides, not what the store lists', async t => {
  const listed = leased(lease => lease.isOver())
  await t.notThrowsAsync(listed.lease.keep())
  listed.lease.descriptor.close()
  const died = leased(lease => lease.storeWasLost(true))
  await t.notThrowsAsync(died.lease.keep())
  died.lease.descriptor.close()
})

test('a keep() of which the store did not know any more, before it died, is not known: another client may have kept it', async t => {
  const doubtful = leased(lease => {
    lease.isOver()
    lease.storeWasLost(true)
  })
  await t.throwsAsync(doubtful.lease.keep(), code('STORE_UNKNOWN'))
  doubtful.lease.descriptor.close()
})
