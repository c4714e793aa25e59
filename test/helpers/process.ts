/** Real processes to test against. */
import { type ChildProcess, execFileSync, type SpawnOptions, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

export interface Running {
  child: ChildProcess
  /** The next line it prints; rejects if it ends before. */
  line(): Promise<string>
  /** Its exit: code, signal and what it wrote to stderr. */
  exit: Promise<{ code: number | null; signal: NodeJS.Signals | null; stderr: string }>
}

/** Starts a fixture (test/fixtures/NAME.mjs, which imports the built package) with Node: this one, or `node`. */
export function startFixture(
  name: string,
  args: string[] = [],
  { node = process.execPath, ...options }: SpawnOptions & { node?: string | undefined } = {}
): Running {
  return start(node, [fileURLToPath(new URL(`../fixtures/${name}.mjs`, import.meta.url)), ...args], options)
}

const running = new Set<ChildProcess>()

/** What was started by `start()` and runs. */
export function nowRunning(): ReadonlySet<ChildProcess> {
  return new Set(running)
}

/** Of what runs, ends all but `others`. */
export function killAllBut(others: ReadonlySet<ChildProcess>): void {
  for (const child of running) if (!others.has(child)) child.kill('SIGKILL')
}

/** Starts any program; stdout is read by lines. */
export function start(command: string, args: string[], options: SpawnOptions = {}): Running {
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], ...options })
  running.add(child)
  child.once('close', () => running.delete(child))
  let stderr = ''
  child.stderr?.setEncoding('utf8').on('data', text => {
    stderr += text
  })
  const lines: string[] = []
  const readers: { resolve(line: string): void; reject(error: Error): void }[] = []
  let ended: Error | undefined
  if (child.stdout !== null)
    createInterface(child.stdout)
      .on('line', line => {
        const reader = readers.shift()
        if (reader === undefined) lines.push(line)
        else reader.resolve(line)
      })
      .on('close', () => {
        ended = new Error(`${command} ${args.join(' ')} ended without the expected line\n${stderr}`)
        for (const { reject } of readers.splice(0)) reject(ended)
      })
  const exit = once(child, 'close').then(([code, signal]) => ({ code, signal, stderr }))
  return {
    child,
    exit,
    line: () =>
      new Promise((resolve, reject) => {
        const line = lines.shift()
        if (line !== undefined) resolve(line)
        else if (ended !== undefined) reject(ended)
        else readers.push({ resolve, reject })
      })
  }
}

/** The lines that it prints from now on, until it ends. */
export async function outputOf(running: Running): Promise<string[]> {
  const lines: string[] = []
  try {
    for (;;) lines.push(await running.line())
  } catch {
    return lines // it has ended
  }
}

/** Limits the numbers of open files that a process of ours may get: below 3 there is none. What is open stays so. */
export function limitOpenFiles(pid: number, limit: number): void {
  execFileSync('prlimit', ['--pid', `${pid}`, `--nofile=${limit}:`]) // the soft limit; prlimit(1) of util-linux
}
