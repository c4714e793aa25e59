/** The places in the shim at which it calls one of the functions of functions.ts. */
import { execFileSync } from 'node:child_process'
import { NAMES } from './functions.ts'

export interface Site {
  /** The function that is called, and the one of the shim that calls it. */
  readonly name: string
  readonly within: string
}

/** By the address to which the call returns, as `Orders.sites` has it. */
export function sitesOf(shim: string): Map<number, Site> {
  const sites = new Map<number, Site>()
  const code = execFileSync('objdump', ['-d', '--no-show-raw-insn', shim], {
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024
  })
  let within = ''
  let called: string | undefined
  for (const line of code.split('\n')) {
    const head = /^\w+ <(.*)>:$/.exec(line)
    if (head !== null) within = head[1]!
    const [, at, instruction] = /^\s*(\w+):\s*(.*)$/.exec(line) ?? []
    if (at === undefined) continue
    if (called !== undefined) sites.set(Number.parseInt(at, 16), { name: called, within })
    called = nameOf(/^(?:call|bl)\s.*<(\w+)@plt>/.exec(instruction!)?.[1])
  }
  return sites
}

/** glibc's names for files of any size: fstat64, preadv64v2. */
function nameOf(symbol: string | undefined): string | undefined {
  const name = symbol?.replace(/64(v(?=2$)|$)/, '')
  return name !== undefined && NAMES.includes(name) ? name : undefined
}
