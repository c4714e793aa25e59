/** Foreign programs that a test runs against. */
import { accessSync, constants, existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { type Running, start } from './process.ts'

/** The system's own Python, if there is one: what version managers put in its place starts some shells first. */
export const systemPython: string = existsSync('/usr/bin/python3') ? '/usr/bin/python3' : 'python3'

/** Why a test can't run, unless the program is there: its name and the Debian package that brings it. */
export function missing(path: string, debianPackage: string): string | undefined {
  try {
    accessSync(path, constants.X_OK)
    return undefined
  } catch {
    return `no ${path}: apt-get install ${debianPackage}`
  }
}

/** The path of an example as Node alone can run it: scripts/compile-tests.mjs makes it. */
export function example(name: string): string {
  return fileURLToPath(new URL(`../../build/programs/${name}.js`, import.meta.url))
}

/** Starts it for at most so many seconds: what a test leaves behind ends by itself. */
export function startFor(seconds: number, command: string, ...args: string[]): Running {
  return start('timeout', [String(seconds), command, ...args])
}

/** Ends it (SIGTERM, which `timeout` passes on) and waits until it has. */
export async function stop({ child, exit }: Running): Promise<void> {
  child.kill()
  await exit
}
