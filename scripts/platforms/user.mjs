/**
 * What a new user does, in a fresh Debian with Node and npm: installs the tarball, and follows the README, whose programs and commands are taken from
 * what was installed. `node user.mjs <platform>` prints TAP. npm is offline, as all that it needs is in its cache; ports are this user's own.
 */
import { spawn } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** Under emulation a start of Node takes a second, so only there the time of an installation says nothing. */
const isEmulated = process.argv[2] === 'user-arm64'
/** The longest time of an installation with a warm cache, and of anything else, in ms. */
const WARM = 2_000
const LIMIT = isEmulated ? 600_000 : 120_000
const PORT = 3000
const folder = '/root/app'
mkdirSync(folder)
writeFileSync(join(folder, 'package.json'), '{ "name": "shop", "type": "module" }\n')

const steps = {
  'npm install succeeds, says what it added, and warns of nothing': async () => {
    const { all } = await run('npm', ['install', '../passfd.tgz'])
    equal(/^added 4 packages/m.test(all) && !/warn|err|passfd/i.test(all), true, all)
    await run('npm', ['install', 'express'])
  },
  [`with a warm cache it ${isEmulated ? 'installs' : `takes less than ${WARM} ms`}`]: async () => {
    let taken = Number.POSITIVE_INFINITY
    // The best of some, as the machine may be busy
    for (let attempt = 0; attempt < (isEmulated ? 1 : 5); attempt++) {
      const again = `/root/again${attempt}`
      mkdirSync(again)
      writeFileSync(join(again, 'package.json'), '{}')
      const started = performance.now()
      await run('npm', ['install', '../passfd.tgz'], again)
      taken = Math.min(taken, Math.round(performance.now() - started))
    }
    console.log(`# ${taken} ms`)
    if (!isEmulated) equal(taken < WARM, true, `${taken} ms`)
  },
  'the README’s sender and receiver print what it shows': async () => {
    for (const name of ['receiver.mjs', 'sender.mjs']) writeFileSync(join(folder, name), program(name))
    const receiver = start('node', ['receiver.mjs'])
    await receiver.says(/^receiver: waiting$/m)
    const sender = await run('node', ['sender.mjs'])
    equal(sender.stderr, '')
    equal(/^sender: process \d+ answers { length: 33 }$/m.test(sender.stdout), true, sender.stdout)
    const { stdout, stderr } = await receiver.succeeds()
    equal(stderr, '')
    equal(/^receiver: process \d+ sent letter\.txt: Nobody else can open me any more\.$/m.test(stdout), true, stdout)
  },
  'the README’s supervisor and workers serve, reload and stop': async () => {
    const section = '### Several processes on one port'
    for (const name of ['server.mjs', 'worker.mjs']) writeFileSync(join(folder, name), program(name, section))
    const supervisor = start('node', ['server.mjs'])
    const first = await answer(supervisor, /^process \d+$/)
    supervisor.child.kill('SIGHUP')
    await answer(supervisor, /^process \d+$/, text => text !== first)
    supervisor.child.kill('SIGTERM')
    const { all } = await supervisor.succeeds()
    equal(all, '') // as the README says
  },
  'npx passfd serves a server as it is; reload, scale, status and stop work': async () => {
    writeFileSync(
      join(folder, 'plain.js'),
      `import { createServer } from 'node:http'
       createServer((request, response) => response.end(\`plain \${process.pid}\`)).listen(${PORT})`
    )
    const server = start('npx', ['passfd', 'serve', '--workers', '2', 'plain.js'])
    await server.says(/passfd: shop serves at port 3000: 2 workers, process \d+, after [\d.]+ m?s\./)
    await answer(server, /^plain \d+$/)
    for (const command of [['reload'], ['scale', '3'], ['status']]) {
      const { stderr } = await run('npx', ['passfd', ...command])
      equal(stderr, '')
    }
    const { stdout } = await run('npx', ['passfd', 'status', '--json'])
    equal(JSON.parse(stdout).workers.length, 3, stdout)
    await answer(server, /^plain \d+$/)
    await run('npx', ['passfd', 'stop'])
    await server.succeeds()
  },
  'npx passfd passes an open file between two shells': async () => {
    const receiver = start('npx', ['passfd', 'receive', './app.sock', '--exec', 'sh', '-c', 'cat <&3'])
    await receiver.says(/waiting at/)
    await run('npx', ['passfd', 'send', './app.sock', '--file', 'name=/etc/debian_version', '--wait'])
    const { stdout } = await receiver.succeeds()
    equal(stdout, readFileSync('/etc/debian_version', 'utf8'))
  }
}

console.log(`1..${Object.keys(steps).length}`)
let count = 0
const running = new Set()
for (const [title, step] of Object.entries(steps)) {
  try {
    await Promise.race([step(), timeout()])
    console.log(`ok ${++count} - ${title}`)
  } catch (error) {
    process.exitCode = 1
    console.log(`not ok ${++count} - ${title}`)
    console.log(`${error.stack}`.replaceAll(/^/gm, '# '))
    for (const child of running) child.kill('SIGKILL')
  }
}
process.exit()

function timeout() {
  return new Promise((_, reject) => setTimeout(() => reject(new Error(`not within ${LIMIT} ms`)), LIMIT).unref())
}

/** The README's program that begins with a comment of that name: the first one, or that of a section. */
function program(name, section = '') {
  const text = readFileSync(join(folder, 'node_modules/passfd/README.md'), 'utf8')
  const readme = text.slice(text.indexOf(section))
  const found = new RegExp(`^\`\`\`js[^\n]*\n(// ${name.replace('.', '\\.')}[^]*?)^\`\`\`$`, 'm').exec(readme)
  if (found === null) throw new Error(`the README has no ${name} ${section}`)
  return found[1]
}

function start(command, args, cwd = folder) {
  const child = spawn(command, args, { cwd, stdio: ['ignore', 'pipe', 'pipe'] })
  running.add(child)
  child.once('close', () => running.delete(child))
  const said = { stdout: '', stderr: '', all: '' }
  const listeners = new Set()
  for (const name of ['stdout', 'stderr'])
    child[name].setEncoding('utf8').on('data', text => {
      said[name] += text
      said.all += text
      for (const listener of listeners) listener()
    })
  const ended = new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => {
      if (code === 0) resolve(said)
      else reject(new Error(`${command} ${args.join(' ')} ended with ${code ?? signal}: ${said.all}`))
    })
  })
  ended.catch(() => {}) // a step may have failed before
  const says = pattern =>
    new Promise((resolve, reject) => {
      const look = () => pattern.test(said.all) && resolve()
      listeners.add(look)
      look()
      ended.then(() => reject(new Error(`${command} ended without ${pattern}: ${said.all}`)), reject)
    })
  return { child, says, succeeds: () => ended }
}

function run(command, args, cwd = folder) {
  return start(command, args, cwd).succeeds()
}

/** What the server answers, once it is like that. Rejects if the server ends before. */
async function answer(server, pattern, isIt = () => true) {
  const ended = server.succeeds().then(({ all }) => Promise.reject(new Error(`it ended: ${all}`)))
  ended.catch(() => {}) // it may end later
  for (;;) {
    try {
      const text = await (await fetch(`http://127.0.0.1:${PORT}/`, { headers: { connection: 'close' } })).text()
      if (pattern.test(text) && isIt(text)) return text
    } catch (error) {
      if (error.cause?.code !== 'ECONNREFUSED') throw error // nobody listens yet
    }
    await Promise.race([new Promise(resolve => setTimeout(resolve, 50)), ended])
  }
}

function equal(actual, expected, detail = '') {
  if (actual !== expected) throw new Error(`${JSON.stringify(actual)} is not ${JSON.stringify(expected)} ${detail}`)
}
