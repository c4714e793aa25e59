// Runs the console blocks of a page: `$ command` lines as a reader would type them, and below each what it prints.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** Fenced blocks. `name` is that in the comment of a first line: `// server.mjs`, `# web.service`, `; a.ini`, `/* a.c`. */
export function blocksOf(text) {
  return [...text.matchAll(/^```(\S*) ?(.*)\n([\s\S]*?)^```$/gm)].map(({ 1: language, 2: info, 3: code, index }) => ({
    language,
    info,
    code,
    line: text.slice(0, index).split('\n').length,
    name: info === 'fragment' ? undefined : /^(?:\/\/|#|;|\/\*) ([\w.-]+\.\w+|Dockerfile)(?: \*\/)?\n/.exec(code)?.[1]
  }))
}

/** The commands of a console block, each with the lines that stand below it. */
export function commandsOf(code) {
  const commands = []
  for (const line of code.split('\n').filter(line => line !== ''))
    if (line.startsWith('$ ')) commands.push({ text: line.slice(2), shown: [] })
    else commands.at(-1).shown.push(line)
  return commands
}

/** Without what differs from run to run. */
export function general(line) {
  return line
    .replace(/\b(process|Process|pid|PID|slot|Worker|user) \d+/g, '$1 N')
    .replace(/\b\d[\d.,]* (?:ms|s)\b/g, 'N s')
    .replace(/\s+$/, '')
}

/** Lines that may or may not come. */
const OPTIONAL = /^passfd: Process \d+ still has \d+ connections?\.$/

/** A folder with the files of a page, in which `passfd` and what the examples use are installed. */
function prepare(folder, blocks, extra, there) {
  const modules = join(folder, 'node_modules')
  mkdirSync(join(modules, '.bin'), { recursive: true })
  symlinkSync(root, join(modules, 'passfd'))
  symlinkSync('../passfd/dist/cli/passfd.mjs', join(modules, '.bin/passfd'))
  for (const name of ['ws', 'node-pty', 'express', 'unix-dgram', 'zod'])
    symlinkSync(join(root, 'node_modules', name), join(modules, name))
  writeFileSync(join(folder, 'package.json'), '{ "name": "shop", "private": true }\n')
  for (const path of extra)
    writeFileSync(join(folder, path.split('/').at(-1)), there(readFileSync(join(root, path), 'utf8')))
  for (const { name, code } of blocks)
    if (name !== undefined) {
      mkdirSync(dirname(join(folder, name)), { recursive: true })
      writeFileSync(join(folder, name), there(code))
    }
}

/**
 * Types the commands, one when all lines below the one before have come. Returns what came below each: in `printed`, with the page's own lines
 * first and in their order. `ports`: those of the page, for which free ones stand in.
 */
export async function play(folder, text, { code }, { seconds = 60, env = {} } = {}) {
  const commands = commandsOf(code)
  // Blocks of the page that are no files of their own: <!-- files: examples/jobs/load.mjs -->
  const extra = [...text.matchAll(/^<!-- files: (.*) -->$/gm)].flatMap(([, names]) => names.split(' '))
  const ports = new Set(
    [...text.matchAll(/\b(?:port: |listen\(|localhost:|127\.0\.0\.1:)(\d{4,5})\b/g)].map(([, port]) => port)
  )
  const free = new Map()
  for (const port of ports) free.set(String(port), await freePort())
  const there = text => text.replace(/\b\d{4,5}\b/g, port => free.get(port) ?? port)
  const here = text => [...free].reduce((line, [port, other]) => line.replaceAll(String(other), port), text)
  prepare(folder, blocksOf(text), extra, there)
  const jobs = []
  const lines = [] // that no command has claimed
  let changed = () => {}
  const add = line => {
    if (OPTIONAL.test(line)) return
    lines.push(here(line.replaceAll(folder, '/home/me/shop')))
    changed()
  }
  const results = []
  try {
    for (const { text, shown } of commands) {
      const kill = /^kill (?:-(\w+) )?(%\d+|\$!)$/.exec(text)
      const isJob = text.endsWith(' &')
      let ended = Promise.resolve(0)
      if (kill !== null) {
        const one = jobs.findLast(job => (kill[2] === '$!' ? job.isJob : `%${job.number}` === kill[2] && !job.shown))
        if (one === undefined) throw new Error(`${text}: a shell has no such job`)
        process.kill(-one.child.pid, `SIG${kill[1] ?? 'TERM'}`) // a job is a process group: npx, and what it has started
      } else {
        const command = there(isJob ? text.slice(0, -2) : text)
        const child = spawn('bash', ['-c', command], {
          cwd: folder,
          stdio: ['ignore', 'pipe', 'pipe'],
          detached: true,
          env: {
            PATH: `${dirname(process.execPath)}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin`,
            HOME: folder,
            PASSFD_RUNTIME_DIR: join(folder, 'runtime'),
            npm_config_update_notifier: 'false',
            ...env
          }
        })
        for (const stream of [child.stdout, child.stderr]) createInterface(stream).on('line', add)
        ended = once(child, 'close').then(([code, signal]) => signal ?? code)
        // As bash counts: from the highest whose end it has not shown yet
        const number = isJob ? Math.max(0, ...jobs.map(job => (job.shown ? 0 : (job.number ?? 0)))) + 1 : undefined
        const job = { text, child, ended, isJob, number, over: false }
        ended.then(() => {
          job.over = true
          changed()
        })
        jobs.push(job)
      }
      const code = isJob ? undefined : await inTime(ended, seconds)
      for (const job of jobs) job.shown = job.over // before its prompt
      const printed = []
      const missing = shown.map(general)
      const claim = () => {
        for (const line of [...lines]) {
          const place = missing.indexOf(general(line))
          if (place < 0) continue
          missing.splice(place, 1)
          printed.push(...lines.splice(lines.indexOf(line), 1))
        }
        return missing.length === 0
      }
      const end = Date.now() + (kill === null && !isJob ? 5_000 : seconds * 1_000)
      while (!claim() && Date.now() < end)
        await Promise.race([
          new Promise(resolve => {
            changed = resolve
          }),
          new Promise(resolve => setTimeout(resolve, 200))
        ])
      results.push({ text, code, shown, printed, missing, others: [] })
      if (missing.length > 0) break
    }
  } finally {
    for (const { child, isJob, over } of jobs) if (isJob && !over) child.kill('SIGTERM')
    for (const job of jobs) {
      await Promise.race([job.ended, new Promise(resolve => setTimeout(resolve, 10_000))])
      try {
        process.kill(-job.child.pid, 'SIGKILL') // whatever is left of its process group
      } catch {
        // nothing is
      }
    }
  }
  // What no line of the page stands for. A command that failed to print its own has these, most likely
  results.at(-1).others.push(...lines)
  return results
}

async function inTime(promise, seconds) {
  let timer
  const late = new Promise(resolve => {
    timer = setTimeout(resolve, seconds * 1_000, 'too late')
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  return port
}
