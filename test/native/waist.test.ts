/** The waist compiles without a header of Node's, and does what it says in plain C: see waist.c. */
import { readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { isFull, isInCi } from '../helpers/full.ts'
import { temporaryPath } from '../helpers/path.ts'
import { start } from '../helpers/process.ts'
import { missing } from '../helpers/programs.ts'
import { testIf } from '../helpers/test.ts'

const CC = '/usr/bin/cc'
const MUSL = '/usr/bin/musl-gcc'
/** It has no headers of the kernel: those beside glibc's are searched last. */
const KERNEL = ['/usr/include', `/usr/include/${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu`]
const waist = fileURLToPath(new URL('../../native/waist/', import.meta.url))
const program = fileURLToPath(new URL('waist.c', import.meta.url))
const threads = fileURLToPath(new URL('threads.c', import.meta.url))
/** The kernel places memory at random where the thread sanitizer does not expect it; setarch(8) turns that off. */
const SETARCH = '/usr/bin/setarch'
const STRICT = ['-std=c11', '-D_GNU_SOURCE', '-Wall', '-Wextra', '-Werror', '-pthread', '-g']
const CASES = 10

async function run(
  command: string,
  parameters: string[]
): Promise<{ code: number | null; output: string; stderr: string }> {
  // A sanitizer that this process runs under is not theirs
  const { LD_PRELOAD: _, ...env } = process.env
  const running = start(command, parameters, { env })
  let output = ''
  running.child.stdout!.on('data', text => {
    output += text
  })
  const { code, stderr } = await running.exit
  return { code, output, stderr }
}

async function build(compiler: string, flags: readonly string[], source: string): Promise<string> {
  const binary = temporaryPath('waist')
  const sources = readdirSync(waist).filter(name => name.endsWith('.c'))
  const built = await run(compiler, [...STRICT, ...flags, '-o', binary, ...sources.map(name => waist + name), source])
  if (built.code !== 0 || built.output !== '' || built.stderr !== '') throw new Error(built.output + built.stderr)
  return binary
}

const SANITIZED = ['-fsanitize=address,undefined', '-fno-sanitize-recover=undefined']

for (const [how, compiler, flags] of [
  // What a sanitizer passes is right as it is, too, but for what the compiler makes of it
  ...(isFull ? ([['as it is', CC, ['-O1']]] as const) : []),
  // To optimize it as well takes half as long again
  ['under the address and undefined-behaviour sanitizers', CC, isFull ? ['-O1', ...SANITIZED] : SANITIZED],
  ...(isInCi ? ([['with musl', MUSL, KERNEL.map(folder => `-idirafter${folder}`)]] as const) : [])
] as const)
  testIf(
    missing(compiler, compiler === MUSL ? 'musl-tools' : 'build-essential'),
    `the waist in plain C, ${how}`,
    async t => {
      const binary = await build(compiler, flags, program)
      const { code, output, stderr } = await run(binary, [])
      t.is(stderr, '')
      t.is(code, 0)
      t.is(output.match(/: ok$/gm)?.length, CASES, output)
    }
  )

testIf(
  missing(CC, 'build-essential') ?? missing(SETARCH, 'util-linux'),
  'eight threads share the closer and the table of holders, under the thread sanitizer',
  async t => {
    const binary = await build(CC, ['-O1', '-fsanitize=thread'], threads)
    const { code, output, stderr } = await run(SETARCH, ['-R', binary])
    t.is(stderr, '')
    t.is(code, 0)
    t.regex(output, /^\d{4,} batches came back$/m)
  }
)
