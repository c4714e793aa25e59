/** What attacks need of a machine, beside Node and what `npm ci` builds. */
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** An attack can't run, or not to its end. The message says why, and what helps. */
export class Unable extends Error {}

const isBuilt = (path: string): boolean => existsSync(fileURLToPath(new URL(`../build/dist/${path}`, import.meta.url)))
const starts = (command: string): boolean => spawnSync(command, ['--version']).error === undefined

/** Of each: whether it is there, and what a person reads if it is not. */
const NEEDS = {
  root: [() => process.getuid?.() === 0, 'root: run it by sudo, or in a container'],
  build: [() => isBuilt('index.js'), 'the build: run npm ci, then npm run build:ts'],
  cc: [() => starts('cc'), 'a C compiler, cc: apt-get install gcc'],
  clang: [() => starts('clang'), 'clang: apt-get install clang'],
  npm: [() => starts('npm'), 'npm'],
  objdump: [() => starts('objdump'), 'objdump: apt-get install binutils'],
  nsenter: [() => starts('nsenter'), 'nsenter: apt-get install util-linux'],
  setpriv: [() => starts('setpriv'), 'setpriv: apt-get install util-linux'],
  prlimit: [() => starts('prlimit'), 'prlimit: apt-get install util-linux'],
  python: [() => starts('/usr/bin/python3'), '/usr/bin/python3: apt-get install python3']
} satisfies Record<string, readonly [isThere: () => boolean, name: string]>

export type Need = keyof typeof NEEDS

/** @throws Unable: the compiler says why. */
export function compile(args: readonly string[]): void {
  try {
    execFileSync('cc', args, { stdio: ['ignore', 'ignore', 'pipe'] })
  } catch (error) {
    throw new Unable(`cc ${args.join(' ')} fails: ${(error as { stderr?: Buffer }).stderr ?? error}`)
  }
}

/** What is not there, each as a person reads it. */
export function missingOf(needs: readonly Need[]): string[] {
  return needs.filter(need => !NEEDS[need][0]()).map(need => NEEDS[need][1])
}
