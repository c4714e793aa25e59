/** Programs in C that tests start. */
import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { temporaryPath } from './path.ts'

const compiled = new Map<string, string>()

/** The path of the program test/fixtures/NAME.c; it is compiled once in a process. */
export function inC(name: string): string {
  let path = compiled.get(name)
  if (path === undefined) {
    path = temporaryPath(name)
    const source = fileURLToPath(new URL(`../fixtures/${name}.c`, import.meta.url))
    execFileSync('/usr/bin/cc', ['-Wall', '-Wextra', '-Werror', '-O1', '-o', path, source])
    compiled.set(name, path)
  }
  return path
}
