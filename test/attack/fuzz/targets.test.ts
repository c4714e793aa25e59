import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { NAMES } from '../../../attack/fuzz/names.ts'
import { TARGETS } from '../../../attack/fuzz/targets.ts'
import { Codec } from '../../../src/codec/codec.ts'
import { FrameReader } from '../../../src/codec/frame.ts'
import { LineSplitter } from '../../../src/prefork/supervisor/output-lines.ts'
import { test } from '../../helpers/test.ts'

const corpus = fileURLToPath(new URL('../../../attack/fuzz/corpus', import.meta.url))

test('the list of the names is that of the targets', t => {
  t.deepEqual([...NAMES], Object.keys(TARGETS).sort())
})

for (const [name, { seeds, attempt }] of Object.entries(TARGETS))
  test(`${name}: what it begins with, and what has found something, holds`, t => {
    const folder = `${corpus}/${name}`
    const kept = existsSync(folder) ? readdirSync(folder).map(file => readFileSync(`${folder}/${file}`)) : []
    for (const input of [...seeds(), ...kept]) t.notThrows(() => attempt(input))
  })

/** A fault in passfd: the target must see it in something that it begins with. */
const FAULTS: Record<string, { in: object; method: string; made(original: (...args: any[]) => unknown): unknown }> = {
  bodies: { in: Codec.prototype, method: 'decode', made: original => wrapped(original, value => [value]) },
  frames: { in: FrameReader.prototype, method: 'received', made: original => shorter(original) },
  output: { in: LineSplitter.prototype, method: 'end', made: () => () => [] }
}

function wrapped(original: (...args: any[]) => unknown, change: (value: unknown) => unknown): unknown {
  return function (this: unknown, ...args: unknown[]) {
    return change(original.apply(this, args))
  }
}

function shorter(original: (...args: any[]) => unknown): unknown {
  return function (this: unknown, length: number) {
    return original.call(this, length > 1 ? length - 1 : length)
  }
}

for (const [name, { in: prototype, method, made }] of Object.entries(FAULTS))
  test(`${name}: a fault of ${method}() is found`, t => {
    const methods = prototype as Record<string, (...args: any[]) => unknown>
    const original = methods[method]!
    const { seeds, attempt } = TARGETS[name]!
    const inputs = seeds()
    methods[method] = made(original) as typeof original
    try {
      t.true(inputs.some(input => isRefused(() => attempt(input))))
    } finally {
      methods[method] = original
    }
  })

function isRefused(work: () => void): boolean {
  try {
    work()
    return false
  } catch {
    return true
  }
}
