/** examples/haproxy-takeover.ts against a real HAProxy. */
import { existsSync, writeFileSync } from 'node:fs'
import { Agent, get } from 'node:http'
import { socketPath, temporaryPath } from '../helpers/path.ts'
import { freePort } from '../helpers/port.ts'
import { start } from '../helpers/process.ts'
import { example, missing, startFor, stop } from '../helpers/programs.ts'
import { testInCiIf, until } from '../helpers/test.ts'

const haproxy = '/usr/sbin/haproxy'

testInCiIf(
  missing(haproxy, 'haproxy'),
  'a program of Node’s serves on HAProxy’s sockets beside it, then alone',
  async t => {
    const admin = socketPath()
    const configuration = temporaryPath('haproxy.cfg')
    const [first, second] = [await freePort(), await freePort()]
    writeFileSync(
      configuration,
      `global
  nbthread 1
  stats socket ${admin} mode 600 level admin expose-fd listeners
defaults
  mode http
  timeout client 5s
  timeout server 5s
  timeout connect 5s
frontend web
  bind 127.0.0.1:${first}
  bind 127.0.0.1:${second}
  http-request return status 200 content-type text/plain string haproxy
`
    )
    const proxy = startFor(30, haproxy, '-db', '-f', configuration)
    await until(() => existsSync(admin), 'HAProxy to listen')
    t.is(await ask(first), 'haproxy')

    const takeover = start(process.execPath, [example('haproxy-takeover'), admin])
    t.regex(await takeover.line(), /^takeover: HAProxy gave .*tcp-listener.*tcp-listener/)
    const ports = [await takeover.line(), await takeover.line()].map(line => Number(/port (\d+)$/.exec(line)![1]))
    t.deepEqual(ports.sort(), [first, second].sort())

    // Whoever is woken first accepts
    const seen = new Set<string>()
    for (let round = 0; round < 50 && seen.size < 2; round++)
      for (const answer of await Promise.all(Array.from({ length: 20 }, () => ask(first)))) seen.add(answer)
    t.deepEqual([...seen].sort(), ['haproxy', 'node'])

    await stop(proxy)
    t.is(await ask(first), 'node')
    t.is(await ask(second), 'node')
    takeover.child.kill()
    t.deepEqual(await takeover.exit, { code: 0, signal: null, stderr: '' })
  }
)

/** Whoever answers on that port says its name. */
function ask(port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    get({ host: '127.0.0.1', port, agent: new Agent(), headers: { connection: 'close' } }, response => {
      let text = ''
      response.setEncoding('utf8').on('data', part => {
        text += part
      })
      response.on('end', () => resolve(text))
    }).on('error', reject)
  })
}
