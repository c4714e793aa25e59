/** The command `passfd` in this process, with its output captured. */
import { Readable } from 'node:stream'
import type { Command } from 'commander'
import { main, passfd } from '../../src/cli/main.ts'
import type { Streams } from '../../src/cli/ui.ts'

export interface Captured extends Streams {
  out: string
  err: string
}

/** Streams that keep what is written. `terminal`: they say that they are one, of 80 × 24. */
export function captured(env: Streams['env'] = {}, { terminal = false, stdin = '' } = {}): Captured {
  const output = (name: 'out' | 'err') => ({
    isTTY: terminal,
    columns: 80,
    rows: 24,
    write: (text: string | Uint8Array) => {
      streams[name] += typeof text === 'string' ? text : Buffer.from(text).toString()
      return true
    }
  })
  const streams: Captured = {
    out: '',
    err: '',
    env,
    stdin: Readable.from([stdin]),
    stdout: output('out'),
    stderr: output('err')
  }
  return streams
}

/** Runs a command line. `modules`: the commands that there are, if not all. */
export async function runPassfd(
  args: readonly string[],
  streams = captured(),
  modules?: readonly ((program: Command) => void)[]
): Promise<{ code: number; out: string; err: string }> {
  const code = await main(args, streams, modules)
  return { code, out: streams.out, err: streams.err }
}

/** All commands, with their help, by their names ('takeover status'). */
export function allCommands(): Map<string, Command> {
  const found = new Map<string, Command>()
  const visit = (command: Command, above: string): void => {
    for (const each of command.commands) {
      const name = `${above}${each.name()}`
      found.set(name, each)
      visit(each, `${name} `)
    }
  }
  visit(passfd(captured()), '')
  return found
}
