import { kindsText, listText } from '../../../src/cli/store/list.ts'
import { Descriptor } from '../../../src/index.ts'
import type { StoredEntry } from '../../../src/store/index.ts'
import { withStore } from '../../helpers/store-cli.ts'
import { test } from '../../helpers/test.ts'

const entry: StoredEntry = {
  entry: 1,
  name: 'http',
  owner: 0,
  kinds: ['tcp-listener'],
  bytes: 0,
  uid: 0,
  pid: 12,
  since: 1000,
  poll: false,
  keep: false
}

test('the table: who has put it, what it is, how old it is', t => {
  const other: StoredEntry = {
    ...entry,
    name: 'log\u202e',
    owner: 1000,
    kinds: ['file', 'pipe', 'file'],
    bytes: 2048,
    ttl: 90_000,
    leased: 34
  }
  t.is(
    listText([entry, other], 61_000),
    [
      'NAME       OWNER  DESCRIPTORS      VALUE    AGE  EXPIRES IN  PUT BY              TAKEN BY',
      'http           0  tcp-listener            1 min              process 12',
      'log\\u202e   1000  2 × file, pipe  2.0 kB  1 min  1 min 30 s  process 12, user 0  process 34',
      '2 names, 4 descriptors'
    ].join('\n')
  )
  t.is(kindsText(['tcp-listener', 'tcp-listener']), '2 × tcp-listener')
})

test('a table, names alone, JSON; a pattern; an owner', t =>
  withStore(async ({ client, run }) => {
    t.like(await run('list'), { code: 0, out: 'The store holds nothing that you may read and asked for.\n', err: '' })
    t.like(await run('list', '--names'), { code: 0, out: '' })
    t.like(await run('list', '--names', '--json'), { code: 0, out: '[]\n' })
    for (const name of ['web 1', 'web 2', 'log']) await client.put(name, Descriptor.openSync('/dev/null'), { value: 7 })
    t.regex((await run('list')).out, /^NAME .*\nweb 1 .*device.*\n.*\n.*\n3 names, 3 descriptors\n$/s)
    t.like(await run('list', 'web*', '--names'), { code: 0, out: 'web 1\nweb 2\n', err: '' })
    t.like(await run('list', '--names', '--json', 'log'), { code: 0, out: '["log"]\n' })
    const [log] = JSON.parse((await run('list', 'log', '--json')).out)
    t.like(log, { name: 'log', owner: process.geteuid!(), kinds: ['device'], bytes: 1, pid: process.pid })
    t.like(await run('list', '--owner', '4711', '--names'), { code: 0, out: '' })
    t.is((await run('list', '--owner', 'nobody-of-this-name')).code, 64)
    t.is((await run('list', 'a:b')).code, 64)
  }))
