/** Whom a socket file belongs to: set before anybody can connect, or nothing is left. */
import * as fs from 'node:fs'
import { dirname } from 'node:path'
import * as datagram from '../../src/datagram/index.ts'
import { Descriptor, listen } from '../../src/index.ts'
import { accessOf } from '../../src/os/account.ts'
import { native } from '../../src/os/native.ts'
import { bindOn, DATAGRAM, listenOn, removeFile } from '../../src/os/socket-name.ts'
import * as streams from '../../src/stream/index.ts'
import { patched } from '../helpers/channels.ts'
import { temporaryPath } from '../helpers/path.ts'
import { openDescriptors, test, testIf } from '../helpers/test.ts'

const INVALID = { code: 'ERR_PASSFD_INVALID_ARGUMENT' }
const notRoot = process.getuid!() === 0 ? undefined : 'only root gives files away'

function factsOf(path: string): { uid: number; gid: number; mode: number } {
  const { uid, gid, mode } = fs.statSync(path)
  return { uid, gid, mode: mode & 0o777 }
}

test('numbers and names; what is neither is refused by name', t => {
  t.deepEqual(accessOf({}, 0o600), { mode: 0o600, owner: undefined, group: undefined })
  t.deepEqual(accessOf({ owner: 'root', group: 'root' }, 0), { mode: 0, owner: 0, group: 0 })
  t.deepEqual(accessOf({ owner: 4_294_967_294, group: 0 }, 0o660).owner, 4_294_967_294)
  for (const line of fs.readFileSync('/etc/group', 'utf8').trim().split('\n')) {
    const [name, , id] = line.split(':')
    t.is(accessOf({ group: name! }, 0).group, Number(id), name)
  }
  for (const wrong of [
    '',
    'no-such-user',
    'root ',
    'ROOT',
    '0',
    'root:x:0',
    '#',
    -1,
    1.5,
    2 ** 32 - 1,
    Number.NaN,
    null,
    {},
    true,
    1n
  ]) {
    t.throws(() => accessOf({ owner: wrong as never }, 0), { ...INVALID, message: /^owner must be/ }, String(wrong))
    t.throws(() => accessOf({ group: wrong as never }, 0, 'options.'), {
      ...INVALID,
      message: /^options\.group must be/
    })
  }
})

testIf(notRoot, 'the file belongs to them before anybody can connect, whatever the umask', async t => {
  const umask = process.umask(0o077)
  const receiver = await datagram.bind()
  const address = receiver.address!
  try {
    for (const [given, expected] of [
      [
        { owner: 65534, group: 65533, mode: 0o660 },
        { uid: 65534, gid: 65533, mode: 0o660 }
      ],
      [
        { group: 'daemon', mode: 0o620 },
        { uid: 0, gid: 1, mode: 0o620 }
      ],
      [{ owner: 'daemon' }, { uid: 1, gid: 0, mode: 0o600 }]
    ] as const) {
      for (const path of [
        temporaryPath('owned'),
        `${fs.mkdtempSync(temporaryPath('long'.repeat(20)))}/${'x'.repeat(60)}`
      ]) {
        const listener = await Descriptor.bind({ path, ...given })
        t.deepEqual(factsOf(path), expected)
        listener.close()
        fs.unlinkSync(path)
      }
      const path = temporaryPath('channels')
      const server = await listen(path, given)
      t.deepEqual(factsOf(path), expected)
      await server.close()
      t.false(fs.existsSync(path))
      for (const open of [streams.listen, streams.listenPackets, datagram.bind]) {
        const opened = await open(path, given)
        t.deepEqual(factsOf(path), expected)
        await opened.close()
        t.false(fs.existsSync(path))
      }
      const client = await datagram.connect(address, { from: path, ...given })
      t.deepEqual(factsOf(path), expected)
      await client.close()
      // Nobody can be let in before: the steps after it see it as it stays
      const seen: unknown[] = []
      const { mode = 0o600, ...owners } = given as { mode?: number; owner?: number; group?: number }
      const access = accessOf(owners, mode)
      const { fd, file } = await bindOn(DATAGRAM, { path }, access, { finish: () => void seen.push(factsOf(path)) })
      t.deepEqual(seen, [expected])
      native.close(fd)
      await removeFile(file!)
    }
  } finally {
    process.umask(umask)
    await receiver.close()
  }
})

type Opener = (address: any, options: object) => Promise<{ close(): unknown }>

/** Each opener that takes them, and its type of socket. `to`: a datagram socket's. */
function openers(to: datagram.DatagramAddress): [name: string, 'stream' | 'seqpacket' | 'dgram', Opener][] {
  return [
    ['listen', 'stream', listen],
    ['stream.listen', 'stream', streams.listen],
    ['stream.listenPackets', 'seqpacket', streams.listenPackets],
    ['datagram.bind', 'dgram', datagram.bind],
    [
      'datagram.connect',
      'dgram',
      (from, options) =>
        from instanceof Descriptor ? datagram.connect(from, options) : datagram.connect(to, { from, ...options })
    ]
  ]
}

testIf(
  notRoot,
  'from the first moment that it has a name until it is whole nobody can connect to the file',
  async t => {
    const receiver = await datagram.bind()
    for (const [name, , open] of openers(receiver.address!)) {
      const path = temporaryPath('window')
      const modes: number[] = []
      const look = (): void => void modes.push(fs.statSync(path).mode & 0o777)
      await patched(
        'bind',
        original =>
          (...given) => {
            const result = original(...given)
            if (result >= 0) look()
            return result
          },
        async () => {
          const socket = await open(path, { owner: 65534, group: 65533, mode: 0o666 })
          look()
          await socket.close()
        }
      )
      t.deepEqual(modes, [0, 0o666], name)
    }
    await receiver.close()
  }
)

test('where there is no file they are refused by name, and nothing has moved', async t => {
  const receiver = await datagram.bind()
  for (const [name, type, open] of openers(receiver.address!))
    for (const given of [{ owner: 0 }, { group: 'root' }, { owner: 1, group: 1 }]) {
      const [one, other] = Descriptor.socketpair({ type })
      const before = openDescriptors().size
      await t.throwsAsync(open(one, given), {
        ...INVALID,
        message: /^owner and group must be undefined for a Descriptor/
      })
      t.false(one.closed, name)
      if (name === 'datagram.connect')
        await t.throwsAsync(datagram.connect(receiver.address!, given), { ...INVALID, message: /without a name/ })
      await t.throwsAsync(open({ abstract: temporaryPath() }, given), { ...INVALID, message: /for an abstract name/ })
      if (name === 'datagram.bind')
        await t.throwsAsync(datagram.bind(undefined, given), { ...INVALID, message: /for an abstract name/ })
      t.is(openDescriptors().size, before, name)
      one.close()
      other.close()
    }
  for (const wrong of ['no-such-user', '', 1.5, -1, 2 ** 32, null, {}, 1n])
    for (const key of ['owner', 'group'])
      for (const [, , open] of openers(receiver.address!)) {
        const path = temporaryPath('wrong')
        await t.throwsAsync(open(path, { [key]: wrong as never }), {
          ...INVALID,
          message: new RegExp(`^options\\.${key} `)
        })
        t.false(fs.existsSync(path))
      }
  await receiver.close()
})

testIf(
  notRoot,
  "who may not give it away: EPERM, and neither file nor descriptor is left; an abstract name is nobody's",
  async t => {
    const folder = fs.mkdtempSync(temporaryPath('folder'))
    fs.chmodSync(folder, 0o777)
    fs.chmodSync(dirname(folder), 0o711)
    const path = `${folder}/socket`
    await t.throwsAsync(listenOn({ abstract: 'owned' }, accessOf({ group: 0 }, 0o600), 5), INVALID)
    process.seteuid!(65534)
    try {
      const error = await t.throwsAsync(Descriptor.bind({ path, owner: 0 }), { code: 'EPERM' })
      t.like(error, { syscall: 'chown', address: path })
    } finally {
      process.seteuid!(0)
    }
    t.deepEqual(fs.readdirSync(folder), [])
    await t.throwsAsync(Descriptor.bind({ path, group: 'no-such-group' }), { ...INVALID, message: /\/etc\/group/ })
    t.deepEqual(fs.readdirSync(folder), [])
  }
)
