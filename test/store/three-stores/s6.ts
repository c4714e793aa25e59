/** What the table says of s6-fdholder. Its documentation: https://skarnet.org/software/s6/s6-fdholder-daemon.html and the pages that it leads to. */

import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import type { ExecutionContext } from 'ava'
import { Descriptor } from '../../../src/index.ts'
import { NOBODY, publicPath } from '../../helpers/public.ts'
import { FdHolder, fileOf, ROOT_ONLY, runS6 } from '../../helpers/s6.ts'
import type { Cases } from './lines.ts'

type Body = (t: ExecutionContext) => Promise<void>

/** Of s6-fdholder-errorcodes. */
const BUSY = { message: /Device or resource busy/ }
const NO_ENTRY = { message: /No such file or directory/ }
const DENIED = { message: /Operation not permitted/ }
/** The daemon closes the connection: before the client writes, or after that. */
const NOT_LET_IN = { message: /Broken pipe|Connection reset by peer/ }
const FULL = { message: /Too many open files in system/ }

export const cases: Cases<Body> = {
  'who can use it': {
    says: 'every process that the rules allow',
    async shows(t) {
      await using holder = await FdHolder.start({ ...ROOT_ONLY, [NOBODY]: { store: '^web-', retrieve: '^web-' } })
      using memfd = Descriptor.memfd()
      await holder.store('web-1', memfd, { uid: NOBODY })
      t.is(await holder.retrieve('web-1', { uid: NOBODY }), fileOf(memfd))
      await holder.store('db', memfd)
      await t.throwsAsync(holder.retrieve('db', { uid: NOBODY }), DENIED)
      await t.throwsAsync(holder.store('x', memfd, { uid: NOBODY }), DENIED)
      await t.throwsAsync(holder.list(NOBODY), DENIED)
      await t.throwsAsync(holder.list(NOBODY - 1), NOT_LET_IN)
    }
  },

  'access by default': {
    says: 'nobody, not even root',
    async shows(t) {
      t.like(await runS6('s6-fdholder-daemon', [publicPath()]), {
        code: 100,
        stderr: 's6-fdholder-daemon: fatal: no access rights specified!\n'
      })
      await using holder = await FdHolder.start({})
      await t.throwsAsync(holder.list(), NOT_LET_IN)
    }
  },

  names: {
    says: 'unique',
    async shows(t) {
      await using holder = await FdHolder.start({ ...ROOT_ONLY, [NOBODY]: { store: '.' } })
      using first = Descriptor.memfd()
      using second = Descriptor.memfd()
      await holder.store('x', first)
      await t.throwsAsync(holder.store('x', second), BUSY)
      await t.throwsAsync(holder.store('x', second, { uid: NOBODY }), BUSY)
      await holder.remove('x')
      await holder.store('x', second)
      t.is(await holder.retrieve('x'), fileOf(second))
    }
  },

  'a value beside it': {
    says: 'no',
    async shows(t) {
      await using holder = await FdHolder.start()
      await stored(holder, 'x')
      // All that it knows of an entry, but for its expiry
      t.deepEqual(variables(await holder.dumped()), ['S6_FD#', 'S6_FDID_0', 'S6_FD_0'])
    }
  },

  'several descriptors together': {
    says: 'one at a time, or a whole dump',
    async shows(t) {
      await using holder = await FdHolder.start()
      for (const id of ['a', 'b']) await stored(holder, id)
      // One number and one identifier for each
      t.deepEqual(variables(await holder.dumped()), ['S6_FD#', 'S6_FDID_0', 'S6_FDID_1', 'S6_FD_0', 'S6_FD_1'])
      await using other = await FdHolder.start()
      await holder.transferTo(other)
      t.deepEqual([...(await other.list())].sort(), ['a', 'b'])
    }
  },

  'gets it back': {
    says: 'when it asks',
    async shows(t) {
      await using holder = await FdHolder.start()
      const file = await stored(holder, 'x')
      for (let times = 0; times < 2; times++) t.is(await holder.retrieve('x'), file)
    }
  },

  'a taken descriptor comes back if the taker dies': {
    says: 'a copy stays; with `retrieve -D`, no',
    async shows(t) {
      await using holder = await FdHolder.start()
      const file = await stored(holder, 'x')
      t.is(await holder.retrieve('x'), file)
      t.deepEqual(await holder.list(), ['x'])
      t.is(await holder.retrieve('x', { remove: true }), file)
      // The program that has got it has ended
      await t.throwsAsync(holder.retrieve('x'), NO_ENTRY)
    }
  },

  expiry: {
    says: '`store -T`',
    async shows(t) {
      await using holder = await FdHolder.start()
      await stored(holder, 'stays')
      await stored(holder, 'goes', 500)
      t.is(variables(await holder.dumped()).filter(name => name.startsWith('S6_FDLIMIT_')).length, 1)
      let ids = await holder.list()
      while (ids.length > 1) ids = await holder.list()
      t.deepEqual(ids, ['stays'])
    }
  },

  'removal at hang-up': {
    says: 'no',
    async shows(t) {
      await using holder = await FdHolder.start()
      const [one, other] = Descriptor.socketpair()
      const file = fileOf(one)
      await holder.store('x', one)
      one.close()
      other.close()
      t.deepEqual(await holder.list(), ['x'])
      t.is(await holder.retrieve('x'), file)
    }
  },

  listing: {
    says: 'names',
    async shows(t) {
      await using holder = await FdHolder.start()
      for (const id of ['unix:/run/a', 'tcp:127.0.0.1:80']) await stored(holder, id)
      t.deepEqual([...(await holder.list())].sort(), ['tcp:127.0.0.1:80', 'unix:/run/a'])
    }
  },

  watching: {
    says: 'no',
    async shows(t) {
      // A client is one of these programs, and does one thing
      t.deepEqual(
        readdirSync('/usr/bin')
          .filter(name => name.startsWith('s6-fdholder-'))
          .map(name => name.slice('s6-fdholder-'.length))
          .sort(),
        ['daemon', 'delete', 'getdump', 'list', 'retrieve', 'setdump', 'store', 'transferdump']
      )
    }
  },

  bounds: {
    says: 'together',
    async shows(t) {
      await using holder = await FdHolder.start({ ...ROOT_ONLY, [NOBODY]: { store: '.' } }, '-n', '3')
      using memfd = Descriptor.memfd()
      for (const id of ['a', 'b', 'c']) await holder.store(id, memfd, { uid: NOBODY })
      await t.throwsAsync(holder.store('d', memfd), FULL, 'one user has all places')
    }
  },

  'all of it to another store': {
    says: '`transferdump`, a copy',
    async shows(t) {
      await using holder = await FdHolder.start()
      await using other = await FdHolder.start()
      const files = [await stored(holder, 'a'), await stored(holder, 'b', 1_000_000)]
      await stored(other, 'a')
      await stored(other, 'c')
      await holder.transferTo(other)
      t.deepEqual([...(await holder.list())].sort(), ['a', 'b'])
      t.deepEqual([...(await other.list())].sort(), ['a', 'b', 'c'])
      t.deepEqual([await other.retrieve('a'), await other.retrieve('b')], files, 'in place of what had the identifier')
      t.is(variables(await other.dumped()).filter(name => name.startsWith('S6_FDLIMIT_')).length, 1)
      // It takes a right of its own
      await using closed = await FdHolder.start({ 0: { store: '.', retrieve: '.', list: true } })
      await t.throwsAsync(holder.transferTo(closed), DENIED)
      await t.throwsAsync(closed.transferTo(holder), DENIED)
    }
  },

  'survives the restart of a service': { says: 'yes', shows: survivesEnd },

  'survives a stop of the service': { says: 'yes', shows: survivesEnd },

  'survives its own replacement': {
    says: 'by a transfer',
    async shows(t) {
      await using successor = await FdHolder.start()
      let file: string
      {
        await using holder = await FdHolder.start()
        file = await stored(holder, 'x')
        await holder.transferTo(successor)
      }
      t.is(await successor.retrieve('x'), file)
    }
  },

  'survives its own death': {
    says: 'no',
    async shows(t) {
      await using holder = await FdHolder.start()
      const [one, other] = Descriptor.socketpair()
      await holder.store('x', one)
      one.close()
      const socket = other.toSocket()
      const ended = once(socket.resume(), 'end')
      await holder.kill()
      await ended // nobody has the other end any more
      socket.destroy()
      t.pass()
    }
  }
}

/** Each program that the tests start is a service's process that has ended when the next one asks. */
async function survivesEnd(t: ExecutionContext): Promise<void> {
  await using holder = await FdHolder.start()
  const file = await stored(holder, 'x')
  t.is(await holder.retrieve('x'), file)
  t.is(await holder.retrieve('x'), file)
}

/** Stores memory that only the daemon has then: which open file it is. */
async function stored(holder: FdHolder, id: string, ttl = 0): Promise<string> {
  using memfd = Descriptor.memfd()
  await holder.store(id, memfd, { ttl })
  return fileOf(memfd)
}

function variables(lines: readonly string[]): string[] {
  return lines.map(line => line.split('=')[0]!).sort()
}
