/**
 * `npm run recording`: runs `passfd serve`, a deploy under load and `passfd top` in three terminals, and draws what they show: docs/terminal.svg.
 * All that stands there was printed in this run. With `--check` it draws nothing: the run must succeed.
 */
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { spawn } from 'node-pty'
import { install } from './install.mjs'
import { picture } from './recording/picture.mjs'

const path = relative => fileURLToPath(new URL(relative, import.meta.url))
const PATIENCE = 30_000
const WORKERS = 4

install()
const { default: headless } = await import('@xterm/headless')

const home = mkdtempSync(join(tmpdir(), 'passfd-recording-'))
const shop = join(home, 'shop')
mkdirSync(join(home, 'bin'))
mkdirSync(shop)
mkdirSync(join(home, 'run'), { mode: 0o700 })
for (const version of ['old', 'new']) writeFileSync(join(shop, `${version}.mjs`), server(version))
copyFileSync(join(shop, 'old.mjs'), join(shop, 'server.mjs'))
copyFileSync(path('recording/load.mjs'), join(shop, 'load.mjs'))
writeFileSync(
  join(home, 'bin/passfd'),
  `#!/bin/sh\nexec '${process.execPath}' '${path('../dist/cli/passfd.mjs')}' "$@"\n`
)
chmodSync(join(home, 'bin/passfd'), 0o755)

const port = await freePort()
const terminals = []
try {
  const first = open('the server', 96, 3)
  await first.types(`passfd serve -w ${WORKERS} server.mjs`, /serves at port .* workers/)
  first.keeps()

  const second = open('a deploy, under load', 96, 9)
  await second.types('node load.mjs &', /^\[1\] \d+/m)
  const third = open('passfd top, meanwhile', 96, WORKERS + 9)
  await third.types('passfd top', new RegExp(`${WORKERS} of ${WORKERS} ready`))
  // Its figures are those between two looks
  await third.shows(/[1-9]\d* requests\/s/)
  await second.types('cp new.mjs server.mjs')
  const caught = third.catches(() => /starting|stopping/.test(third.text()) && /ready/.test(third.text()))
  await second.types('passfd reload', /\$ passfd reload\r?\n[^$]+\n.*\$ $/)
  await caught
  await second.types('kill %1; wait', /answered: .*Failed: \d+/)
  await second.shows(/\$ $/)
  const summary = /answered: .*/.exec(second.text())[0]
  if (!/old code.*new code.*Failed: 0$/.test(summary.trim())) throw new Error(`not a reload without a loss: ${summary}`)

  const drawing = picture(
    [first, second, third].map(terminal => terminal.shown()),
    'Three terminals: passfd serve starts four workers; passfd reload deploys new code while a load of requests goes on, and none fails; passfd top shows the workers meanwhile'
  )
  if (!process.argv.includes('--check')) writeFileSync(path('../docs/terminal.svg'), drawing)
} finally {
  await Promise.all(terminals.map(terminal => terminal.end()))
  // The server may still remove its own files
  rmSync(home, { recursive: true, force: true, maxRetries: 50, retryDelay: 100 })
}

function server(version) {
  return [
    "import { createServer } from 'node:http'",
    `createServer((_, response) => setTimeout(() => response.end('the ${version} code'), 20)).listen(process.env.PORT)`,
    ''
  ].join('\n')
}

/** A shell in a terminal of `columns` and `rows`; what it shows is kept, as a terminal would show it. */
function open(title, columns, rows) {
  const screen = new headless.Terminal({ cols: columns, rows, allowProposedApi: true, convertEol: false })
  const shell = spawn('bash', ['--norc', '--noprofile'], {
    name: 'xterm-256color',
    cols: columns,
    rows,
    cwd: shop,
    env: {
      PATH: `${join(home, 'bin')}:${join(process.execPath, '..')}:/usr/bin:/bin`,
      HOME: home,
      PASSFD_RUNTIME_DIR: join(home, 'run'),
      TERM: 'xterm-256color',
      PS1: '$ ',
      PORT: String(port),
      LANG: 'C.UTF-8'
    }
  })
  const waiting = new Set()
  let kept
  shell.onData(data =>
    screen.write(data, () => {
      for (const look of waiting) look()
    })
  )

  const text = () => {
    const { active } = screen.buffer
    return Array.from({ length: active.length }, (_, row) => active.getLine(row)?.translateToString(true) ?? '')
      .join('\n')
      .replace(/\n+$/, '')
  }
  const until = (condition, what) =>
    new Promise((done, fail) => {
      const timer = setTimeout(() => {
        waiting.delete(look)
        fail(new Error(`${title}: no ${what} in\n${text()}`))
      }, PATIENCE)
      const look = () => {
        if (!condition()) return
        clearTimeout(timer)
        waiting.delete(look)
        done()
      }
      waiting.add(look)
      look()
    })
  const terminal = {
    text,
    shows: pattern => until(() => pattern.test(`${text()}${text().endsWith('$') ? ' ' : ''}`), pattern),
    /** Types a line, and waits for what it prints; without a pattern for the next prompt. */
    async types(line, pattern = /\$ $/) {
      await terminal.shows(/\$ $/)
      shell.write(`${line}\r`)
      await until(() => text().includes(line), line)
      await terminal.shows(pattern)
    },
    /** Keeps what is seen now for the picture. */
    keeps() {
      kept = copyOf(screen.buffer.active, rows)
    },
    /** Keeps what is seen at the first moment at which the condition holds. */
    async catches(condition) {
      await until(condition, 'such a moment')
      terminal.keeps()
    },
    shown: () => ({ title, columns, rows, buffer: kept ?? copyOf(screen.buffer.active, rows) }),
    /** What runs in the foreground ends first: without its shell a server would take SIGHUP for a reload. */
    async end() {
      const over = new Promise(done => shell.onExit(done))
      shell.write('\u0003')
      await terminal.shows(/\$ $/).catch(error => console.error(error.message))
      shell.kill('SIGHUP')
      await over
      screen.dispose()
    }
  }
  terminals.push(terminal)
  return terminal
}

/** The lines that are seen now: the terminal writes into its own again. */
function copyOf(buffer, rows) {
  const lines = Array.from({ length: rows }, (_, row) => {
    const cells = buffer.getLine(buffer.viewportY + row)
    return {
      length: cells.length,
      cells: Array.from({ length: cells.length }, (_, column) => frozen(cells.getCell(column)))
    }
  })
  return { getLine: row => lines[row] && { length: lines[row].length, getCell: column => lines[row].cells[column] } }
}

/** What the picture asks of a cell. */
function frozen(cell) {
  const names = [
    'getWidth',
    'getChars',
    'isFgPalette',
    'getFgColor',
    'isBgPalette',
    'getBgColor',
    'isDim',
    'isBold',
    'isInverse'
  ]
  return Object.fromEntries(
    names.map(name => {
      const value = cell[name]()
      return [name, () => value]
    })
  )
}

/** 3000, which looks familiar, if nobody has it. */
async function freePort() {
  for (const wanted of [3000, 0]) {
    const found = await new Promise(done => {
      const probe = createServer()
        .once('error', () => done(undefined))
        .listen(wanted, () => {
          const { port } = probe.address()
          probe.close(() => done(port))
        })
    })
    if (found !== undefined) return found
  }
  throw new Error('no free port')
}
