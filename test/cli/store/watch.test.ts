import { changeText } from '../../../src/cli/store/watch.ts'
import { Descriptor } from '../../../src/index.ts'
import { captured } from '../../helpers/cli.ts'
import { withStore } from '../../helpers/store-cli.ts'
import { test, until } from '../../helpers/test.ts'

const entry = {
  entry: 1,
  name: 'http',
  owner: 0,
  kinds: ['tcp-listener'],
  bytes: 5,
  uid: 1000,
  pid: 12,
  since: 0,
  poll: false,
  keep: false
} as const

test('changes in words', t => {
  const http = 'http (tcp-listener, 5 B) of user 0'
  t.deepEqual(changeText({ event: 'list', entries: [] }), ['nothing is there'])
  t.deepEqual(changeText({ event: 'list', entries: [entry, entry] }), [`${http} is there`, `${http} is there`])
  t.deepEqual(changeText({ event: 'put', entry }), [`${http} was put by process 12 of user 1000`])
  t.deepEqual(changeText({ event: 'leased', entry: { ...entry, leased: 34 } }), [`${http} was taken by process 34`])
  t.deepEqual(changeText({ event: 'expired', entry }), [`${http} has expired`])
  // Of a later version of the store
  t.deepEqual(changeText({ event: 'new\n', entry } as never), [`${http} new\\u000a`])
})

test('watch: what there is, then what happens, until a signal ends it', t =>
  withStore(async ({ path, client, run, runIn }) => {
    await client.put('a', Descriptor.openSync('/dev/null'))
    const streams = captured({ PASSFD_STORE: path })
    const watching = runIn(streams, 'watch', 'a*', '--json')
    const events = (): { event: string; entry?: { name: string } }[] =>
      streams.out
        .split('\n')
        .filter(Boolean)
        .map(line => JSON.parse(line))
    await until(() => events().length === 1, 'the list')
    await client.put('b', Descriptor.openSync('/dev/null'))
    await client.put('a2', Descriptor.openSync('/dev/null'))
    t.is((await run('take', 'a', '--', 'true')).code, 0)
    await until(() => events().length === 4, 'the changes')
    t.deepEqual(
      events().map(({ event, entry }) => [event, entry?.name]),
      [
        ['list', undefined],
        ['put', 'a2'],
        ['leased', 'a'],
        ['kept', 'a']
      ]
    )
    process.kill(process.pid, 'SIGHUP')
    t.like(await watching, { code: 129, err: '' })
    t.is((await run('watch', 'a:')).code, 64)
  }))
