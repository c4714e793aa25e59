/** What a service manager, the kernel and a person at a terminal give to a program: variables, notifications, options and text. */

import { readOptions } from '../../../src/base/known-options.ts'
import { channelLimits, serverLimits } from '../../../src/channel/options.ts'
import { printable, printableJson } from '../../../src/cli/printable.ts'
import { addressOf, count, listeners, size, time } from '../../../src/cli/serve/read.ts'
import { plain, withDescriptors } from '../../../src/cli/shell/values.ts'
import { BIND_OPTIONS, datagramLimits } from '../../../src/datagram/options.ts'
import { isForUs, namesIn } from '../../../src/os/activation.ts'
import { readActivatedSpec } from '../../../src/os/bind-spec.ts'
import { socketName } from '../../../src/os/socket-name.ts'
import { unitIn } from '../../../src/os/unit.ts'
import { settingsOf as supervisorSettings } from '../../../src/prefork/options.ts'
import { storeSettings } from '../../../src/store/options.ts'
import {
  LISTEN_STREAM_OPTIONS,
  listenLimits,
  PACKET_OPTIONS,
  packetLimits,
  STREAM_OPTIONS,
  streamLimits
} from '../../../src/stream/options.ts'
import { MAX_NOTIFICATION, parseNotification, textOf } from '../../../src/systemd/notification.ts'
import { addressIn } from '../../../src/systemd/notify.ts'
import { intervalIn } from '../../../src/systemd/watchdog.ts'
import { settingsOf as takeOverSettings } from '../../../src/takeover/options.ts'
import { allowed, environmentIn, isCount, must, packed, type Target, type Targets, texts, valueIn } from '../target.ts'

/** What a terminal would obey. */
const CONTROL = /[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/

/** Messages to a supervisor's NOTIFY_SOCKET. */
const notifications: Target = {
  sources: /\/src\/systemd\/notification\./,
  seeds: () =>
    [
      'READY=1\nSTATUS=three of four\nMAINPID=12',
      'X_A=\nX_B=a=b\n\n=c',
      'RELOADING=1\nMONOTONIC_USEC=5',
      '\xff=\xfe\nERRNO=5'
    ].map(text => Buffer.from(text, 'latin1')),
  attempt(input) {
    const fields = parseNotification(input)
    const lines = input.subarray(0, MAX_NOTIFICATION).toString().split('\n')
    must(fields.size <= 64, `${fields.size} fields`)
    for (const [name, value] of fields) {
      must(/^[A-Z][A-Z0-9_]*$/.test(name), `a field ${JSON.stringify(name)}`)
      must(!/[\0-\x1f\x7f-\x9f]/.test(value), `a control character in ${name}`)
      must(
        lines.find(line => line.startsWith(`${name}=`))!.length === name.length + 1 + value.length,
        `${name} has another value`
      )
    }
  }
}

const INVALID = ['ERR_PASSFD_INVALID_ARGUMENT']

/** What a program tells systemd is read as it was told. */
const states: Target = {
  sources: /\/src\/systemd\/notification\./,
  seeds: () =>
    packed(
      { ready: true, status: 'it runs', mainPid: 5, watchdog: 'trigger', notifyAccess: 'main' },
      { reloading: true, extendTimeout: 1000, watchdogInterval: 5, errno: 3 },
      { stopping: true, watchdog: true, fields: { X_A: 'a', X_B: '' } }
    ),
  attempt(input) {
    const found = valueIn(input)
    if (found === undefined) return
    const given = found.value as { status?: string; fields?: Record<string, string> }
    const text = allowed([...INVALID, 'ERR_PASSFD_NOTIFICATION_TOO_LONG'], () => textOf(given as never))
    if (text === undefined) return
    must(Buffer.byteLength(text) <= 4096, 'longer than systemd reads')
    const told = new Map(
      text.split('\n').map(line => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)])
    )
    if (given.status !== undefined) must(told.get('STATUS') === given.status, 'another status')
    const own = Object.entries(given.fields ?? {})
    for (const [name, value] of own) must(told.get(name) === value, `another value of ${name}`)
    must(
      [...told.keys()].every(name => !name.startsWith('X_') || own.some(([one]) => one === name)),
      'a field of its own'
    )
  }
}

const variables: Target = {
  sources: /\/src\/(os\/activation|os\/unit|systemd\/watchdog|systemd\/notify)\./,
  seeds: () =>
    texts(
      `LISTEN_PID=${process.pid}\nLISTEN_FDS=2\nLISTEN_FDNAMES=a:b`,
      'LISTEN_PID=1\nLISTEN_FDS=1',
      `WATCHDOG_USEC=1000000\nWATCHDOG_PID=${process.pid}\nNOTIFY_SOCKET=@a`,
      'NOTIFY_SOCKET=/run/systemd/notify\nWATCHDOG_USEC=5',
      '0::/system.slice/a.service\n1:name=systemd:/user.slice/session-3.scope',
      'LISTEN_FDS=1048576'
    ),
  attempt(input) {
    const env = environmentIn(input)
    const { LISTEN_FDS = '', LISTEN_FDNAMES, NOTIFY_SOCKET } = env
    if (isForUs({ ...env, LISTEN_PIDFDID: undefined }))
      must(Number(env.LISTEN_PID) === process.pid, 'the descriptors of another process')
    const names = allowed(['ERR_PASSFD_ACTIVATION'], () => namesIn(env))
    if (names !== undefined) {
      must(names.length === Number(LISTEN_FDS) && names.length <= 2 ** 20, `${names.length} names`)
      if (LISTEN_FDNAMES !== undefined && names.length > 0) must(names.join(':') === LISTEN_FDNAMES, 'other names')
    }
    const address = allowed(['ERR_PASSFD_NOTIFY_SOCKET'], () => addressIn(env))
    if (typeof address === 'object') must(`@${address.abstract}` === NOTIFY_SOCKET && address.abstract !== '', 'a name')
    if (typeof address === 'string') must(address === NOTIFY_SOCKET && address.startsWith('/'), 'a path')
    const interval = intervalIn(env)
    must(interval === undefined || (interval > 0 && Number.isFinite(interval)), `a ping in ${interval} ms`)
    const unit = unitIn(input.toString('latin1'))
    must(unit === undefined || /\.(service|scope)$/.test(unit), `the unit ${unit}`)
  }
}

const READERS: readonly ((value: never) => unknown)[] = [
  channelLimits,
  value => serverLimits(value, 1024),
  value => streamLimits(readOptions(value, STREAM_OPTIONS)),
  value => packetLimits(readOptions(value, PACKET_OPTIONS)),
  value => listenLimits(readOptions(value, LISTEN_STREAM_OPTIONS)),
  value => datagramLimits(readOptions(value, BIND_OPTIONS)),
  value => storeSettings('/a', value),
  value => storeSettings(value, {}),
  takeOverSettings,
  supervisorSettings,
  value => readActivatedSpec(value, 'spec'),
  socketName
]

/** Options and addresses of programs. */
const options: Target = {
  sources:
    /\/src\/(channel|stream|datagram|store|takeover|prefork)\/options\.|\/src\/(base\/(known-options|check)|os\/bind-spec)\./,
  seeds: () =>
    packed(
      { maxMessage: 5, window: 100, records: false, requestTimeout: 0, handshakeTimeout: 1 },
      { mode: 0o600, owner: 'root', group: 0, backlog: 5, maxConnections: 3 },
      {
        entry: '/a',
        workers: 2,
        listeners: { web: { port: 80 }, other: { path: '/b', mode: 511 } },
        balance: 'shared'
      },
      { program: ['node', 'a.js'], waitReady: true, spawn: { stdio: 'lines', env: { A: 'b' }, uid: 1 } },
      {
        command: ['a'],
        listeners: { a: { port: 1, host: 'x' } },
        limits: { rss: 5, jitter: 0.5 },
        admin: { path: '/a' }
      },
      { path: '/a', timeout: 5 },
      { path: { path: '/a', mode: 5 }, generation: 1 },
      { activated: 'web', port: 80 },
      { type: 'udp4', port: 5, address: '::' },
      { abstract: 'a' },
      'a'
    ),
  attempt(input) {
    const found = valueIn(input)
    if (found === undefined) return
    for (const read of READERS) allowed(INVALID, () => read(found.value as never))
  }
}

const VALUES: readonly ((text: string) => unknown)[] = [time(0), time(1), size, listeners, count(0, 65_535), addressOf]

/** Values of the command line, and values with descriptors in JSON. */
const commands: Target = {
  sources: /\/src\/cli\/(serve\/read|shell\/values)\./,
  seeds: () =>
    texts(
      '1h30m',
      '0',
      '500ms',
      '1.5GiB',
      'web=80',
      'web=[::1]:80',
      '/run/a.sock',
      'a:80',
      '5',
      '{"$descriptor":"a","b":[1]}'
    ),
  attempt(input) {
    const text = input.toString()
    for (const read of VALUES) {
      try {
        const value = read(text)
        if (typeof value === 'number') must(isCount(value), `it reads ${value}`)
      } catch (error) {
        if ((error as Error).constructor.name !== 'Expected') throw error
      }
    }
    let value: unknown
    try {
      value = JSON.parse(text)
    } catch {
      return
    }
    try {
      withDescriptors(value, new Map())
    } catch (error) {
      if ((error as Error).constructor.name !== 'CommandError') throw error
    }
  }
}

/** Values of peers, as a command prints them: a terminal obeys nothing in it, and JSON stays JSON. */
const reports: Target = {
  sources: /\/src\/cli\/(printable|shell\/values)\./,
  seeds: () =>
    packed('\x1b[2J', { '\u202e': ['\x9b', 5n, null] }, [Buffer.alloc(3), new Date(0)], ['\u2066a\u2069', '\x7f']),
  attempt(input) {
    const found = valueIn(input)
    if (found === undefined) return
    const text = printableJson(plain(found.value, new Map(), () => ({})))
    must(!CONTROL.test(text), 'a terminal obeys it')
    JSON.parse(text)
    must(!CONTROL.test(printable(input.toString())), 'a terminal obeys it')
  }
}

export const systemTargets: Targets = { commands, notifications, options, reports, variables, statuses: states }
