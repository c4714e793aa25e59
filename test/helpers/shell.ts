/** `passfd send` and `passfd receive` in this process. */
import { register } from '../../src/cli/shell/shell.ts'
import { type Captured, captured, runPassfd } from './cli.ts'
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
