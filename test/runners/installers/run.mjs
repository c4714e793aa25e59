/**
 * Installs the packed tarball as users do, by each installer: from a registry, and offline from the file. Then the README's programs run there, and the
 * command by the installer's own runner. With PASSFD_TEST_FULL=1 by all of them, otherwise by one, or by those of the arguments. It ends with "N passed, N failed".
 */
import { once } from 'node:events'
import * as fs from 'node:fs'
import { createServer } from 'node:net'
import { delimiter, dirname, join } from 'node:path'
import { arch, env, execPath, platform } from 'node:process'
import { setTimeout as later } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { pack } from '../../helpers/pack.mjs'
import { check, chosen, equal, finish, folder, matches, output, start } from '../checks.mjs'
import { startRegistry } from '../registry.mjs'

const modules = fileURLToPath(new URL('node_modules', import.meta.url))
const readme = fs.readFileSync(new URL('../../../README.md', import.meta.url), 'utf8')
const { version } = JSON.parse(fs.readFileSync(new URL('../../../package.json', import.meta.url), 'utf8'))
const full = env.PASSFD_TEST_FULL === '1'
/** Node 22, for an npm that needs it: .ci/run sets it. */
const node22 = env.PASSFD_TEST_NODE22
const script = path => [execPath, join(modules, path)]
const berry = script('@yarnpkg/cli-dist/bin/yarn.js')
const bun = [join(modules, `@oven/bun-${platform}-${arch === 'arm64' ? 'aarch64' : arch}/bin/bun`)]
/** Yarn says so of each ES module under Plug'n'Play. */
const OF_MODULES = /YN0092|Done with warnings/
/** Of yarn 2 and later. */
const yarnrc = (linker, url, home) => `nodeLinker: ${linker}
npmRegistryServer: "${url}"
unsafeHttpWhitelist: ["127.0.0.1"]
enableTelemetry: false
enableImmutableInstalls: false
globalFolder: "${home}/berry"
`

/**
 * `add`: what installs a package by its name, `file`: what installs a tarball offline, `run`: what runs the command of a package, `node`: what runs a
 * program.
 */
const INSTALLERS = {
  'npm 11': npm(script('npm-11/bin/npm-cli.js')),
  'npm 12': { ...npm([node22 ?? '', join(modules, 'npm-12/bin/npm-cli.js')]), node: [node22 ?? ''] },
  pnpm: {
    add: [...pnpm(), 'add', 'passfd'],
    file: tarball => [...pnpm(), 'add', '--offline', tarball],
    run: [...pnpm(), 'exec', 'passfd']
  },
  'yarn 1': {
    add: [...script('yarn/bin/yarn.js'), 'add', 'passfd'],
    file: tarball => [...script('yarn/bin/yarn.js'), 'add', '--offline', `file:${tarball}`],
    run: [...script('yarn/bin/yarn.js'), '--silent', 'run', 'passfd']
  },
  'yarn 4, node_modules': yarn4('node-modules'),
  'yarn 4, Plug’n’Play': { ...yarn4('pnp'), node: [...berry, 'node'] },
  bun: {
    add: [...bun, 'add', 'passfd'],
    file: tarball => [...bun, 'add', '--prefer-offline', tarball],
    run: [...bun, 'x', 'passfd']
  }
}
const all = Object.keys(INSTALLERS)
/** test/package.test.ts lays out what npm does. */
const names = chosen(all, full ? all : ['yarn 4, Plug’n’Play'])

const work = folder('installers')
const { tarball } = await pack(folder('packed'), full)
const registry = await startRegistry(tarball, work)

await check('publint', async () => {
  const { stdout } = await output([...script('publint/src/cli.js'), tarball, '--strict'], { cwd: work })
  matches(stdout, /All good!/)
})
// Its declarations are those of an ES module, which require() gives, too
await check('attw', () =>
  output([...script('@arethetypeswrong/cli/dist/index.js'), tarball, '--profile', 'esm-only', '--no-color']).then(
    // A problem that the profile does not leave out is an error, too
    ({ stdout }) => matches(stdout, /passfd\/takeover/)
  )
)
for (const name of names) await install(name, INSTALLERS[name])
registry.close()
finish()

async function install(name, { add, file, run, offline, node = [execPath], rc }) {
  if (add[0] === '') {
    await check(name, () => {
      throw new Error('it needs PASSFD_TEST_NODE22, the path of a Node 22')
    })
    return
  }
  const home = folder('home')
  const project = which => {
    const cwd = folder(which)
    const manifest = { name: 'shop', version: '1.0.0', license: 'MIT', private: true }
    fs.writeFileSync(join(cwd, 'package.json'), `${JSON.stringify(manifest)}\n`)
    fs.writeFileSync(join(cwd, '.npmrc'), `registry=${registry.url}\n`)
    if (rc !== undefined) {
      fs.writeFileSync(join(cwd, '.yarnrc.yml'), rc(registry.url, home))
      fs.writeFileSync(join(cwd, 'yarn.lock'), '')
    }
    return cwd
  }
  const surroundings = {
    ...Object.fromEntries(
      Object.entries(env).filter(([key]) => !/^(npm_|YARN_|PASSFD_|NODE_OPTIONS|COREPACK|XDG_|BUN_)/i.test(key))
    ),
    HOME: home,
    CI: 'true',
    npm_config_update_notifier: 'false',
    PATH: [dirname(node[0]), dirname(execPath), env.PATH].join(delimiter),
    PASSFD_RUNTIME_DIR: folder('run')
  }
  const cwd = project('project')
  const options = { cwd, env: surroundings }
  const installed = await check(`${name} installs it from a registry`, async () => quiet(await output(add, options)))
  if (!installed) return
  await check(`${name}: the README's sender and receiver`, async () => {
    for (const file of ['receiver.mjs', 'sender.mjs']) fs.writeFileSync(join(cwd, file), program(file))
    const receiver = start([...node, 'receiver.mjs'], options)
    await receiver.said(/waiting/)
    const { stdout, stderr } = await output([...node, 'sender.mjs'], options)
    matches(stdout, /^sender: process \d+ answers \{ length: 33 \}\n$/)
    equal(stderr, '')
    const { code, stderr: said } = await receiver.ended
    equal(`${code} ${said}`, '0 ')
  })
  await check(`${name}: the README's supervisor and workers`, async () => {
    const port = await freePort()
    // One worker: when it answers, none is starting any more
    const source = program('server.mjs').replace('port: 3000', `port: ${port}`).replace('workers: 4', 'workers: 1')
    fs.writeFileSync(join(cwd, 'server.mjs'), source)
    fs.writeFileSync(join(cwd, 'worker.mjs'), withoutExpress(program('worker.mjs')))
    const server = start([...node, 'server.mjs'], options)
    const answer = await answerOf(port, server)
    matches(answer, /^process \d+$/)
    server.child.kill('SIGTERM')
    const { code, stderr } = await server.ended
    equal(`${code} ${stderr}`, '0 ')
  })
  await check(`${name}: the command`, async () => {
    const { stdout, stderr } = await output([...run, '--version'], options)
    equal(stdout.trim(), version)
    equal(stderr.replace(/^npm notice .*\n/gm, ''), '')
  })
  await check(`${name}: passfd serve`, async () => {
    fs.writeFileSync(
      join(cwd, 'server.mjs'),
      `import http from 'node:http'\nhttp.createServer((_, response) => response.end(String(process.pid))).listen(0)\n`
    )
    const server = start([...run, 'serve', '-w', '2', 'server.mjs'], options)
    const [, port] = await server.said(/serves at port (\d+): 2 workers/)
    const answers = await Promise.all(
      Array.from({ length: 8 }, () => fetch(`http://127.0.0.1:${port}`).then(r => r.text()))
    )
    for (const answer of answers) matches(answer, /^\d+$/)
    await output([...run, 'stop'], options)
    equal((await server.ended).code, 0)
  })
  // The registry may be away from here on
  await check(`${name} installs the tarball offline`, async () => {
    const other = {
      cwd: project('other'),
      env: { ...surroundings, YARN_ENABLE_NETWORK: '0', npm_config_offline: 'true' }
    }
    if (offline !== undefined) {
      const first = project('first')
      quiet(await output(file(tarball), { ...other, cwd: first, env: surroundings }))
      for (const name of ['package.json', 'yarn.lock']) fs.copyFileSync(join(first, name), join(other.cwd, name))
    }
    const began = performance.now()
    quiet(await output(offline ?? file(tarball), other))
    const took = `${((performance.now() - began) / 1000).toFixed(2)} s`
    fs.writeFileSync(
      join(other.cwd, 'version.mjs'),
      `import { pair, version } from 'passfd'\npair()[0].destroy()\nconsole.log(version)\n`
    )
    equal((await output([...node, 'version.mjs'], other)).stdout, `${version}\n`)
    return took
  })
}

/** Throws if an installer warns of something, or asks about scripts. */
function quiet({ stdout, stderr }) {
  const all = `${stdout}\n${stderr}`
  const lines = all
    .split('\n')
    .filter(line => /warn|deprecat|script|unsupported|peer/i.test(line) && !OF_MODULES.test(line))
  if (lines.length > 0) throw new Error(all)
}

/** A program of the README. */
function program(name) {
  const [, source] = new RegExp(`\`\`\`js(?: fragment)?\\n(// ${name}[:\\n][\\s\\S]*?)\`\`\``).exec(
    readme.slice(name === 'server.mjs' ? readme.indexOf('### Several processes') : 0)
  )
  return source
}

/** Express is not in the registry here. */
function withoutExpress(source) {
  const changed = source
    .replace("import express from 'express'\n", '')
    .replace('express()', '(_request, response) => response.end("process " + process.pid)')
    .replace(/^app\.get.*\n/m, '')
  if (/express|app\.get/.test(changed)) throw new Error(`the README's worker is another one: ${changed}`)
  return changed
}

/** The first answer of a server that starts. */
async function answerOf(port, { child, words }) {
  for (;;) {
    try {
      return await (await fetch(`http://127.0.0.1:${port}`)).text()
    } catch (error) {
      if (child.exitCode !== null || child.signalCode !== null) throw new Error(words(), { cause: error })
      await later(50)
    }
  }
}

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  await new Promise(resolve => server.close(resolve))
  return port
}

function npm(command) {
  const runner = [...command.slice(0, -1), join(dirname(command.at(-1)), 'npx-cli.js')]
  return {
    add: [...command, 'install', 'passfd'],
    file: tarball => [...command, 'install', '--offline', tarball],
    run: [...runner, 'passfd']
  }
}

function pnpm() {
  return [join(modules, '.bin/pnpm')]
}

function yarn4(linker) {
  return {
    add: [...berry, 'add', 'passfd'],
    file: tarball => [...berry, 'add', `passfd@file:${tarball}`],
    // Yarn 4 asks the registry for versions, unless they are in yarn.lock
    offline: [...berry, 'install'],
    run: [...berry, 'run', 'passfd'],
    rc: (url, home) => yarnrc(linker, url, home)
  }
}
