/** OpenSSH's multiplexing (PROTOCOL.mux in its sources): a program of Node's opens a session and gives its own pipes for stdin, stdout and stderr. */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { text } from 'node:stream/consumers'
import { Descriptor } from '../../src/index.ts'
import { connect } from '../../src/stream/index.ts'
import { socketPath, temporaryPath } from '../helpers/path.ts'
import { freePort } from '../helpers/port.ts'
import { missing, startFor, stop } from '../helpers/programs.ts'
import { testInCiIf, until } from '../helpers/test.ts'

const sshd = '/usr/sbin/sshd'
const ssh = '/usr/bin/ssh'

const HELLO = 1
const NEW_SESSION = 0x10000002
const SESSION_OPENED = 0x80000006
const EXIT_MESSAGE = 0x80000004
const VERSION = 4

testInCiIf(
  missing(sshd, 'openssh-server') ?? missing(ssh, 'openssh-client'),
  'OpenSSH: a session on the control socket, with our pipes',
  async t => {
    const [hostKey, userKey] = [temporaryPath('host'), temporaryPath('user')]
    for (const key of [hostKey, userKey])
      execFileSync('/usr/bin/ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', key])
    mkdirSync('/run/sshd', { recursive: true }) // it won't start without (sshd(8))
    const port = await freePort()
    const configuration = temporaryPath('sshd')
    const settings = {
      Port: port,
      ListenAddress: '127.0.0.1',
      HostKey: hostKey,
      AuthorizedKeysFile: `${userKey}.pub`,
      PidFile: 'none',
      StrictModes: 'no',
      UsePAM: 'no'
    }
    writeFileSync(
      configuration,
      Object.entries(settings)
        .map(pair => pair.join(' '))
        .join('\n')
    )
    const server = startFor(30, sshd, '-D', '-e', '-f', configuration)
    server.child.stderr!.on('data', () => {})
    await new Promise(resolve => server.child.stderr!.once('data', resolve)) // 'Server listening on …'

    const control = socketPath()
    const master = startFor(
      30,
      ssh,
      ...['-M', '-N', '-S', control, '-F', 'none', '-i', userKey, '-p', String(port)],
      ...['-o', 'StrictHostKeyChecking=no', '-o', 'UserKnownHostsFile=/dev/null', 'root@127.0.0.1']
    )
    await until(() => existsSync(control), 'the control socket')

    const stream = await connect(control)
    const packets = packetsOf(stream)
    stream.write(packet(HELLO, VERSION))
    t.deepEqual(numbers(await packets.next()), [HELLO, VERSION])
    const [stdin, stdout, stderr] = [Descriptor.pipe(), Descriptor.pipe(), Descriptor.pipe()]
    const noTerminal = [0, 0, 0, 0, 0xffffffff]
    stream.write(packet(NEW_SESSION, 7, '', ...noTerminal, 'dumb', 'tr a-z A-Z; echo oops >&2; exit 3'))
    for (const descriptor of [stdin.readable, stdout.writable, stderr.writable])
      stream.writeWithDescriptors('\0', [descriptor])
    const [kind, request, session] = numbers(await packets.next())
    t.deepEqual([kind, request], [SESSION_OPENED, 7])
    stdin.writable.toWritable().end('through the tunnel')
    t.is(await text(stdout.readable.toReadable()), 'THROUGH THE TUNNEL')
    t.is(await text(stderr.readable.toReadable()), 'oops\n')
    t.deepEqual(numbers(await packets.next()), [EXIT_MESSAGE, session!, 3])
    stream.destroy()
    await stop(master)
    await stop(server)
  }
)

/** A length, then 32-bit numbers and strings with their length in front. */
function packet(...fields: (number | string)[]): Buffer {
  const parts = fields.map(field =>
    typeof field === 'number' ? uint32(field) : Buffer.concat([uint32(field.length), Buffer.from(field)])
  )
  const body = Buffer.concat(parts)
  return Buffer.concat([uint32(body.length), body])
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

async function* packetsOf(stream: AsyncIterable<Buffer>): AsyncGenerator<Buffer, undefined> {
  let bytes = Buffer.alloc(0)
  for await (const chunk of stream) {
    bytes = Buffer.concat([bytes, chunk])
    while (bytes.length >= 4 && bytes.length >= 4 + bytes.readUInt32BE()) {
      const end = 4 + bytes.readUInt32BE()
      yield bytes.subarray(4, end)
      bytes = bytes.subarray(end)
    }
  }
  return undefined
}

function numbers({ value }: IteratorResult<Buffer, undefined>): number[] {
  if (value === undefined) throw new Error('the stream ended')
  return Array.from({ length: value.length / 4 }, (_, index) => value.readUInt32BE(4 * index))
}
