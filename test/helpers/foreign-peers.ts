/** The peers in other languages (examples/python/peer.py, examples/c/peer.c), each driven by lines: test/fixtures/peer_driver.py, peer-driver.c. */
import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { temporaryPath } from './path.ts'
import { type Running, start } from './process.ts'
import { missing, systemPython } from './programs.ts'

export type Language = 'python' | 'c'

const fixture = (name: string): string => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url))
const compiled = new Map<string, string>()

/** The path of a program from that source in C, under the address, leak and undefined-behaviour sanitizers: it is compiled once in a process. */
export function inCSanitized(source = fixture('peer-driver.c')): string {
  let path = compiled.get(source)
  if (path === undefined) {
    path = temporaryPath('peer')
    const flags = ['-Wall', '-Wextra', '-Werror', '-g', '-O1', '-fsanitize=address,undefined', '-fno-sanitize-recover']
    execFileSync('/usr/bin/cc', [...flags, '-o', path, source])
    compiled.set(source, path)
  }
  return path
}

/** Why the tests of a language can't run. */
export function lacking(language: Language): string | undefined {
  return language === 'c' ? missing('/usr/bin/cc', 'gcc') : missing(systemPython, 'python3')
}

export interface Received {
  kind: string
  id: number
  count: number
  /** How many bytes of padding. */
  pad: number
  /** What its descriptors are open on, read. */
  words: string[]
}

export interface PeerLimits {
  window?: number
  maxDescriptors?: number
  maxMessage?: number
}

/** One end of a channel in another process. It blocks in each command until that is done. */
export class ForeignPeer {
  readonly running: Running

  constructor(language: Language, role: 'listen' | 'connect', path: string, limits: PeerLimits = {}) {
    const { window = 65_536, maxDescriptors = 253, maxMessage = 65_536 } = limits
    const args = [role, path, ...[window, maxDescriptors, maxMessage].map(String)]
    this.running =
      language === 'c'
        ? start(inCSanitized(), args)
        : start(systemPython, ['-B', '-X', 'dev', fixture('peer_driver.py'), ...args])
  }

  line(): Promise<string> {
    return this.running.line()
  }

  /** Does not wait for the answer. */
  tell(command: string): void {
    this.running.child.stdin!.write(`${command}\n`)
  }

  do(command: string): Promise<string> {
    this.tell(command)
    return this.line()
  }

  /** Sends `{ list: [descriptors], pad }`: each descriptor is open on `kind.id.index`. Gives 'sent', 'refused' or 'error CODE'. */
  send(kind: string, id = 0, count = 0, pad = 0, allowance = 0): Promise<string> {
    return this.do(`send ${kind} ${id} ${count} ${pad} ${allowance}`)
  }

  /** What it receives next; a string: the end, or an error. */
  async receive(): Promise<Received | string> {
    return receivedOf(await this.do('receive'))
  }

  /** How many descriptors it has open beyond the standard streams. */
  async opened(): Promise<number> {
    return Number(await this.do('descriptors'))
  }

  /** How many of its descriptors nobody has confirmed; it closes them. */
  async left(): Promise<number> {
    return Number(await this.do('left'))
  }

  /** Ends its process: what it wrote to stderr, where sanitizers complain, and how it ended. */
  end(): Running['exit'] {
    this.running.child.stdin!.end()
    return this.running.exit
  }
}

export function receivedOf(line: string): Received | string {
  const [, kind, id, count, pad, words] = /^(\w+) (\d+) (\d+) (\d+) (.*)$/.exec(line) ?? []
  if (kind === undefined) return line
  return { kind, id: Number(id), count: Number(count), pad: Number(pad), words: words === '' ? [] : words!.split(',') }
}
