/** libFuzzer with sanitizers on the waist: the part of the shim that is plain C. */
import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Attack, chosenOf, type Outcome, type Settings, type Share, shareOut } from '../attack.ts'
import { Unable } from '../needs.ts'

const TARGETS = ['addresses', 'control', 'edges', 'heap', 'holds', 'hosts', 'peers', 'streams']
const HERE = fileURLToPath(new URL('.', import.meta.url))
const WAIST = fileURLToPath(new URL('../../native/waist/', import.meta.url))
const CORPUS = join(HERE, 'corpus')
const CLANG = 'clang'
const SANITIZERS = ['address', 'undefined']
const COMPILE = ['-std=c11', '-D_GNU_SOURCE', '-Wall', '-Wextra', '-Werror', '-pthread', '-g', '-O1']
/** Longer inputs only repeat orders. */
const LONGEST = 512

const counts = { executions: 0, 'blocks of code that ran': 0 }

export const waist: Attack = {
  promise:
    'Whatever control messages, names, hosts and orders reach the waist, it stays within its memory, loses no descriptor and closes none twice.',
  what: 'libFuzzer changes inputs, guided by the code that they reach, under the address and undefined-behaviour sanitizers.',
  needs: ['clang'],
  parts: TARGETS,
  count: 10_000_000,
  sample: 16_000,
  time: 3_600_000,
  run
}

async function run(settings: Settings): Promise<Outcome> {
  const chosen = chosenOf(TARGETS, settings)
  const folder = mkdtempSync(join(tmpdir(), 'passfd-attack-'))
  try {
    const program = build(folder)
    return await shareOut(settings, chosen, counts, (target, share) => attackTarget(program, folder, target, share))
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** Returns the path of the program. */
function build(folder: string): string {
  const sources = readdirSync(WAIST)
    .filter(name => name.endsWith('.c'))
    .map(name => join(WAIST, name))
  const compile = (args: readonly string[]): void => {
    const { status, stderr } = spawnSync(CLANG, args, { cwd: folder, encoding: 'utf8' })
    if (status !== 0) throw new Unable(`clang can't build it with libFuzzer and its sanitizers: ${stderr}`)
  }
  const flags = [...COMPILE, `-fsanitize=${['fuzzer-no-link', ...SANITIZERS]}`, '-fno-sanitize-recover=undefined', '-c']
  compile([...flags, '-include', join(HERE, 'fakes.h'), ...sources])
  compile([...flags, join(HERE, 'targets.c')])
  const objects = readdirSync(folder).filter(name => name.endsWith('.o'))
  compile(['-pthread', `-fsanitize=${['fuzzer', ...SANITIZERS]}`, '-o', 'waist', ...objects])
  return join(folder, 'waist')
}

async function attackTarget(
  program: string,
  folder: string,
  target: string,
  { seed, count, until, log, tell, found }: Share
): Promise<void> {
  const seconds = Math.floor((until - performance.now()) / 1000)
  if (seconds < 1 || count < 1) return
  const corpus = join(folder, target)
  mkdirSync(corpus)
  for (const [at, input] of seeds().entries()) writeFileSync(join(corpus, `seed-${at}`), input)
  const kept = join(CORPUS, target)
  const args = [
    `-runs=${count}`,
    `-max_total_time=${seconds}`,
    `-seed=${seed}`,
    `-max_len=${LONGEST}`,
    '-len_control=0',
    '-print_final_stats=1',
    '-timeout=20',
    `-artifact_prefix=${folder}/found-`,
    corpus,
    ...(existsSync(kept) ? [kept] : [])
  ]
  const child = spawn(program, args, {
    cwd: folder,
    env: { ...process.env, TARGET: target },
    stdio: ['ignore', 'ignore', 'pipe']
  })
  let stderr = ''
  child.stderr.setEncoding('utf8').on('data', text => {
    stderr += text
  })
  const [code, signal] = await once(child, 'close')
  const [, executions = '0'] = /number_of_executed_units: (\d+)/.exec(stderr) ?? []
  const covered = [...stderr.matchAll(/ cov: (\d+) /g)].at(-1)?.[1] ?? '0'
  const [, rate = '0'] = /average_exec_per_sec: +(\d+)/.exec(stderr) ?? []
  tell('executions', Number(executions))
  tell('blocks of code that ran', Number(covered))
  log(`${target}: ${Number(executions).toLocaleString('en')} executions, ${rate} a second, ${covered} blocks`)
  if (code === 0) return
  const artifact = readdirSync(folder).find(name => name.startsWith('found-'))
  const where = artifact === undefined ? 'no input was kept' : keep(target, join(folder, artifact))
  const what =
    /^.*(promise is broken|ERROR|runtime error).*$/m.exec(stderr)?.[0] ?? `it has ended with ${signal ?? code}`
  found(`${target}: ${what} (${where})`)
}

/** The longest name that Linux binds, and orders of all kinds. */
function seeds(): Buffer[] {
  const name = Buffer.alloc(120, 'x')
  name[0] = 107
  return [
    name,
    Buffer.from(Array.from({ length: 256 }, (_, at) => at)),
    Buffer.from('\x00\x01127.0.0.1'),
    Buffer.from('\x00\x01::1')
  ]
}

/** Each stays in the corpus, which later runs begin with. */
function keep(target: string, artifact: string): string {
  const name = createHash('sha256').update(readFileSync(artifact)).digest('hex').slice(0, 16)
  mkdirSync(join(CORPUS, target), { recursive: true })
  copyFileSync(artifact, join(CORPUS, target, name))
  rmSync(artifact)
  return `attack/waist/corpus/${target}/${name}`
}
