/** What the runners that try many things share: programs with a limit of time, and a count of what works. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { kill } from 'node:process'

/** ms. A busy machine needs a tenth of it. */
const LIMIT = 60_000

let passed = 0
let failed = 0
const temporary = fs.realpathSync(fs.mkdtempSync(join(tmpdir(), 'passfd-runner-')))
const running = new Set()
process.on('exit', () => {
  for (const child of running) killGroup(child)
  fs.rmSync(temporary, { recursive: true, force: true })
})
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1))

/** The words of the command line, or `otherwise`. Ends with status 2 if one is unknown. */
export function chosen(known, otherwise) {
  const words = process.argv.slice(2)
  const unknown = words.filter(word => !known.includes(word))
  if (unknown.length === 0) return words.length > 0 ? words : otherwise
  console.error(`there is no ${unknown.join(', ')}: ${known.join(', ')}`)
  process.exit(2)
}

/** A new empty folder, for as long as this process runs. */
export function folder(name) {
  return fs.mkdtempSync(join(temporary, `${name}-`))
}

/** Runs `body`, and says whether it has thrown. What it returns is printed, too. Resolves to whether it has worked. */
export async function check(name, body) {
  try {
    const more = await body()
    console.log(`ok: ${name}${more === undefined ? '' : `: ${more}`}`)
    passed++
    return true
  } catch (error) {
    console.log(`FAILED: ${name}: ${error.stack}`)
    failed++
    return false
  }
}

/** Prints the sum as its last line, and ends. */
export function finish() {
  console.log(`${passed} passed, ${failed} failed`)
  process.exit(failed === 0 ? 0 : 1)
}

/** A program in a process group of its own, which ends with this process. `words()`: what it has written so far. */
export function start([command, ...args], { cwd, env = process.env } = {}) {
  const child = spawn(command, args, { cwd, env, stdio: ['ignore', 'pipe', 'pipe'], detached: true })
  const output = { stdout: '', stderr: '' }
  const heard = []
  running.add(child)
  for (const name of ['stdout', 'stderr'])
    child[name].setEncoding('utf8').on('data', text => {
      output[name] += text
      for (const listener of heard) listener()
    })
  const timer = setTimeout(() => {
    output.stderr += `\nstopped after ${LIMIT / 1000} s`
    killGroup(child)
  }, LIMIT)
  const ended = once(child, 'close').then(
    ([code, signal]) => {
      clearTimeout(timer)
      running.delete(child)
      return { code: signal ?? code, ...output }
    },
    error => ({ code: error.code, ...output, stderr: `${error}` })
  )
  /** Resolves to the match when the program has written it, and rejects if it ends before. */
  const said = pattern =>
    new Promise((resolve, reject) => {
      const look = () => {
        const match = pattern.exec(output.stdout + output.stderr)
        if (match !== null) resolve(match)
      }
      heard.push(look)
      look()
      ended.then(result => reject(new Error(`it ended before it wrote ${pattern}: ${JSON.stringify(result)}`)))
    })
  return { child, said, ended, words: () => output.stdout + output.stderr }
}

/** Resolves to what it has written, if it ends with status 0. */
export async function output(command, options) {
  const { code, stdout, stderr } = await start(command, options).ended
  if (code !== 0) throw new Error(`${command.join(' ')} ended with ${code}: ${stdout}${stderr}`)
  return { stdout, stderr }
}

export function equal(actual, expected) {
  if (actual !== expected) throw new Error(`${JSON.stringify(actual)} is not ${JSON.stringify(expected)}`)
}

export function matches(text, pattern) {
  if (!pattern.test(text)) throw new Error(`${pattern} is not in ${JSON.stringify(text)}`)
}

function killGroup(child) {
  try {
    if (child.pid !== undefined) kill(-child.pid, 'SIGKILL')
  } catch {
    // it has ended
  }
}
