import { Descriptor } from '../../../src/index.ts'
import { withStore } from '../../helpers/store-cli.ts'
import { test } from '../../helpers/test.ts'

test('entries are removed; what is missing is reported, and the others are removed all the same', t =>
  withStore(async ({ path, client, run }) => {
    for (const name of ['a', 'b', 'c']) await client.put(name, Descriptor.openSync('/dev/null'))
    t.like(await run('remove', 'a'), { code: 0, out: '', err: '' })
    t.like(await run('remove', 'missing', 'b'), {
      code: 66,
      out: '',
      err: `passfd: The store at ${path} has no entry named missing. "passfd store list" shows what there is.\n`
    })
    const { code, out, err } = await run('remove', 'c', 'b', '--json')
    t.deepEqual({ code, out }, { code: 66, out: '{"removed":["c"]}\n' })
    t.like(JSON.parse(err), { error: { code: 'ENOENT' } })
    t.deepEqual(await client.list(), [])
    t.is((await run('remove')).code, 64)
    t.is((await run('remove', 'a*')).code, 64)
  }))
