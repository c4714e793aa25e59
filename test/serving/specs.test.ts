/** What is listened on: read once, and nothing is opened or moved by that. */
import { Descriptor } from '../../src/index.ts'
import { Supervisor } from '../../src/prefork/index.ts'
import { readListeners } from '../../src/serving/specs.ts'
import { refuses } from '../helpers/supervisor-options.ts'
import { test } from '../helpers/test.ts'

const entry = '/srv/worker.js'

const WRONG: [string, object][] = [
  ...[undefined, null, {}].map((wrong): [string, object] => ['options.listeners', { entry, listeners: wrong }]),
  ['1 to 64', { entry, listeners: Object.fromEntries(Array.from({ length: 65 }, (_, i) => [`n${i}`, { port: 0 }])) }],
  ...['a:b', '', 'ä', 'x'.repeat(256)].map((name): [string, object] => [
    'the name of a listener',
    { entry, listeners: { [name]: { port: 0 } } }
  ]),
  ['options.listeners.http', { entry, listeners: { http: 3000 } }],
  ...[5, '', '\0name', undefined].map((path): [string, object] => [
    'options.listeners.http.path must be a path',
    { entry, listeners: { http: { path } } }
  ]),
  ...['3000', 65536, undefined].map((port): [string, object] => [
    'options.listeners.http.port',
    { entry, listeners: { http: { port } } }
  ]),
  ...(
    [
      ['port', { port: '3000' }],
      ['backlog', { port: 0, backlog: -1 }],
      ['backlog', { path: '/run/http', backlog: '5' }],
      ['mode', { path: '/run/http', mode: 0o1000 }],
      ['mode', { path: '/run/http', mode: '600' }],
      ['type', { type: 'tcp4', port: 0 }],
      ['port', { type: 'udp4' }]
    ] as const
  ).map(([option, http]): [string, object] => [`options.listeners.http.${option}`, { entry, listeners: { http } }])
]

test('what is wrong throws, and says what would be right', t => refuses(t, WRONG))

test('they are read whole: nobody looks at what the user gave again', t => {
  const given = { http: { port: 0, backlog: 5 }, api: { path: '/run/api' }, dns: { type: 'udp4', port: 53 } }
  const specs = readListeners(given, 'listeners')
  given.http.port = -1
  t.deepEqual(
    [...specs],
    [
      ['http', { port: 0, backlog: 5 }],
      ['api', { path: '/run/api', mode: 0o600 }],
      ['dns', { type: 'udp4', port: 53 }]
    ]
  )
})

test('a Descriptor of the wrong kind, or closed; one that is refused is not moved', async t => {
  const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  t.throws(() => new Supervisor({ entry, listeners: { http: listener }, workers: 0 }), {
    code: 'ERR_PASSFD_INVALID_ARGUMENT'
  })
  t.false(listener.closed)
  listener.close()
  t.throws(() => new Supervisor({ entry, listeners: { http: listener } }), { code: 'ERR_PASSFD_DESCRIPTOR_CLOSED' })
  const file = Descriptor.openSync('/dev/null')
  const supervisor = new Supervisor({ entry, listeners: { http: file } })
  await t.throwsAsync(supervisor.start(), { code: 'ERR_PASSFD_DESCRIPTOR_KIND' })
  t.true(file.closed)
})

test('a Descriptor of a supervisor that is stopped before it has opened anything is closed', async t => {
  const listener = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  await new Supervisor({ entry, listeners: { http: listener } }).stop()
  t.true(listener.closed)
  const other = await Descriptor.bind({ port: 0, host: '127.0.0.1' })
  const supervisor = new Supervisor({ entry, listeners: { http: other } })
  const starting = t.throwsAsync(supervisor.start(), { code: 'ERR_PASSFD_SUPERVISOR_STOPPED' })
  await supervisor.stop()
  await starting
  t.true(other.closed)
})
