/** `passfd send` and `passfd receive` in this process. */
import { register } from '../../src/cli/shell/shell.ts'
import { type Captured, captured, runPassfd } from './cli.ts'
import type { Running } from './process.ts'
import { until } from './test.ts'

export interface Ended {
  code: number
  out: string
  err: string
}

/** Runs one of the shell's commands. */
export function shell(args: readonly string[], streams?: Captured): Promise<Ended> {
  return runPassfd(args, streams, [register])
}

/** Starts `passfd receive`, and waits until it listens. `ended` resolves at its end. */
export async function receiving(
  path: string,
  args: readonly string[] = [],
  env: Record<string, string | undefined> = process.env
): Promise<{ ended: Promise<Ended>; streams: Captured }> {
  const streams = captured(env)
  const ended = shell(['receive', path, ...args], streams)
  let over = false
  void ended.then(() => {
    over = true
  })
  await until(() => over || streams.err.includes('waiting at'), 'passfd receive to listen')
  return { ended, streams }
}

/** Waits until a process of `passfd receive` listens. Call it in the turn in which the process was started. */
export async function listens({ child }: Running): Promise<void> {
  let said = ''
  const hear = (text: string): void => {
    said += text
  }
  child.stderr!.on('data', hear)
  await until(() => said.includes('waiting at') || child.exitCode !== null, 'passfd receive to listen')
  child.stderr!.off('data', hear)
}
