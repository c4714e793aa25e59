/**
 * Runs real servers under passfd serve, reloads them under load, and counts the requests that fail: npm run servers -- [NAME…]
 * [--under passfd,pm2,none] [--reloads 20] [--limit 15] [--seed 1] [--stops 1] [--json FILE] [--install | --installed].
 * `--limit`: minutes for the reloads of one server. `--stops`: runs of each. `none`: without reloads, to see what a server does alone.
 * The last line is "N passed, N failed": a server passes if under passfd each request was answered, and nothing was left.
 */
import { spawn } from 'node:child_process'
import { appendFileSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { argv, env, exit, kill, pid } from 'node:process'
import { setTimeout as later } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const here = fileURLToPath(new URL('.', import.meta.url))
const CI = ['npm', 'ci', '--prefer-offline', '--ignore-scripts', '--no-audit', '--no-fund']
/** Longer than the longest pause of a client, in ms. */
const SETTLE = 2_500

const { values, positionals } = parseArgs({
  args: argv.slice(2),
  allowPositionals: true,
  options: {
    under: { type: 'string', default: 'passfd' },
    reloads: { type: 'string', default: '20' },
    limit: { type: 'string', default: '15' },
    stops: { type: 'string', default: '1' },
    seed: { type: 'string', default: '1' },
    json: { type: 'string' },
    install: { type: 'boolean', default: false },
    installed: { type: 'boolean', default: false }
  }
})
if (!values.installed) await install()
if (values.install) exit(0)

const { LARGE, SERVERS } = await import('./servers.mjs')
const { MANAGERS } = await import('./managers.mjs')
const { freePort, isOpen, MARK, marked } = await import('./processes.mjs')
const { Load } = await import('./load.mjs')
const { SocketIoLoad, WebSocketLoad } = await import('./web-sockets.mjs')

const names = positionals.length > 0 ? positionals : Object.keys(SERVERS)
const managers = values.under.split(',')
const unknown = [...names.filter(name => !(name in SERVERS)), ...managers.filter(name => !(name in MANAGERS))]
if (unknown.length > 0) {
  console.error(
    `there is no ${unknown.join(', ')}: ${Object.keys(SERVERS).join(' | ')}; ${Object.keys(MANAGERS).join(', ')}`
  )
  exit(2)
}

let passed = 0
let failed = 0
/** Of the run under way. */
let mark
for (const signal of ['SIGINT', 'SIGTERM'])
  process.once(signal, () => {
    endAll(mark)
    exit(1)
  })
for (const name of names) {
  const server = SERVERS[name]
  await build(server)
  for (const under of managers) {
    if (under === 'pm2' && server.pm2 === false) continue
    for (let stop = 0; stop < Number(values.stops); stop++) {
      const result = await measure(name, under, Number(values.seed) + stop)
      if (values.json !== undefined) appendFileSync(values.json, `${JSON.stringify(result)}\n`)
      report(result)
      if (under !== 'passfd') continue
      if (isGood(result)) passed++
      else failed++
    }
  }
}
console.log(`${passed} passed, ${failed} failed`)
exit(failed === 0 ? 0 : 1)

async function measure(name, under, seed) {
  const server = SERVERS[name]
  const folder = mkdtempSync(join(tmpdir(), 'servers-'))
  mark = `${name} ${pid} ${Date.now()}`
  const port = await freePort()
  const bin = join(here, 'node_modules/.bin')
  const environment = {
    ...env,
    PATH: `${bin}:${env.PATH}`,
    PORT: `${port}`,
    LARGE: `${LARGE}`,
    NEXT_TELEMETRY_DISABLED: '1',
    [MARK]: mark
  }
  const cwd = join(here, 'programs', server.folder ?? '.')
  const manager = new MANAGERS[under]({ cwd, env: environment, port, server, folder })
  const load = new Load({ port, paths: server.paths, large: LARGE, seed })
  const sockets =
    server.clients === 'ws' ? new WebSocketLoad(port) : server.clients ? new SocketIoLoad(port) : undefined
  const result = { name, under, seed, reloads: 0, reloadTimes: [], error: undefined }
  try {
    const began = performance.now()
    await manager.start()
    result.start = since(began)
    load.start()
    await sockets?.start()
    await later(1_000)
    const before = load.total
    const deadline = performance.now() + Number(values.limit) * 60_000
    while (result.reloads < Number(values.reloads) && performance.now() < deadline && under !== 'none') {
      const at = performance.now()
      await manager.reload()
      result.reloadTimes.push(since(at))
      result.reloads++
    }
    result.answeredDuringReloads = load.total - before
    await later(SETTLE)
    const processes = marked(mark)
    result.manager = processes.find(({ pid }) => pid === manager.pid)?.rss
    result.workers = processes.filter(({ pid }) => pid !== manager.pid).map(({ rss }) => rss)
    const at = performance.now()
    load.phase = 'stop'
    result.exit = await manager.stop()
    result.stop = since(at)
    await Promise.race([load.refusedAll(), later(10_000)])
  } catch (error) {
    result.error = error.message
  }
  await Promise.all([load.stop(), sockets?.stop()])
  result.answers = load.answers
  result.failures = load.failures
  result.endedIdle = load.endedIdle
  result.expired = load.expired
  result.lostAtStop = load.lostAtStop
  result.refused = load.refused
  result.sockets = sockets?.counts
  result.open = await isOpen(port)
  result.left = marked(mark).map(({ pid, command }) => `${pid} ${command}`)
  result.words = manager.words
  endAll(mark)
  rmSync(folder, { recursive: true, force: true })
  return result
}

/** Ends all processes of a run. */
function endAll(mark) {
  for (const { pid } of marked(mark)) {
    try {
      kill(pid, 'SIGKILL')
    } catch {
      // It has ended meanwhile
    }
  }
}

function isGood({ error, failures, left, open, reloads }) {
  return (
    error === undefined && failures.length === 0 && left.length === 0 && !open && reloads === Number(values.reloads)
  )
}

function report(result) {
  const { name, under, answers, failures, reloads, reloadTimes, sockets, left, error, exit: how } = result
  const total = Object.values(answers).reduce((sum, count) => sum + count, 0)
  const mega = bytes => Math.round((bytes ?? 0) / 1e6)
  const sorted = [...reloadTimes].sort((one, two) => one - two)
  console.log(
    `--- ${name} under ${under}: ${failures.length} of ${total + failures.length} requests failed; ${reloads} reloads of ${sorted[Math.floor(sorted.length / 2)] ?? 0} ms ` +
      `(at most ${sorted.at(-1) ?? 0}), ${result.answeredDuringReloads ?? 0} answers meanwhile; started in ${result.start} ms, stopped in ${result.stop} ms, exit ${how}; ` +
      `manager ${mega(result.manager)} MB, ${result.workers?.length ?? 0} others ${mega(result.workers?.reduce((a, b) => a + b, 0))} MB`
  )
  console.log(
    `    ${Object.entries(answers)
      .map(([kind, count]) => `${kind}: ${count}`)
      .join(
        ' · '
      )} · ended while idle: ${result.endedIdle} · expired: ${result.expired} · lost at the stop on idle connections: ${result.lostAtStop} · refused after the stop: ${result.refused}`
  )
  if (sockets !== undefined) console.log(`    ${JSON.stringify(sockets)}`)
  const kinds = new Map()
  for (const { kind, phase, error: what } of failures) {
    const key = `${phase} · ${kind} · ${what}`
    kinds.set(key, (kinds.get(key) ?? 0) + 1)
  }
  for (const [key, count] of kinds) console.log(`    FAILED ${count} × ${key}`)
  for (const failure of under === 'passfd' ? failures.slice(0, 20) : []) console.log(`    ${JSON.stringify(failure)}`)
  if (error !== undefined) console.log(`    FAILED ${error}`)
  if (left.length > 0) console.log(`    LEFT ${left.join('\n         ')}`)
  if (result.open) console.log('    FAILED the port is still open')
}

function since(began) {
  return Math.round(performance.now() - began)
}

/** Runs what the server's program needs first, once. */
async function build({ build: need, folder = '.' }) {
  const large = join(here, 'programs/http-server/large.bin')
  if (!existsSync(large)) writeFileSync(large, Buffer.alloc(LARGE, 'x'))
  if (need === undefined || existsSync(join(here, 'programs', need.makes))) return
  const path = [join(here, 'node_modules/.bin'), join(here, '../../../node_modules/.bin'), env.PATH].join(':')
  await command(need.command, {
    cwd: join(here, 'programs', folder),
    env: { ...env, PATH: path, NEXT_TELEMETRY_DISABLED: '1' }
  })
}

/** From the lockfile, if that has not been done. */
async function install() {
  if (existsSync(join(here, 'node_modules/.package-lock.json')) && !values.install) return
  await command(CI, { cwd: here, env })
}

function command([program, ...args], options) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { ...options, stdio: ['ignore', 'inherit', 'inherit'] })
    child.on('error', reject)
    child.on('exit', code => (code === 0 ? resolve() : reject(new Error(`${program} ${args.join(' ')}: ${code}`))))
  })
}
