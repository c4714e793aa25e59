/** The platforms for which the package carries the shim, and how it is compiled for each of them, in the toolchain of scripts/toolchain.mjs. */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

export const path = name => fileURLToPath(new URL(`../${name}`, import.meta.url))

const musl = arch => ['-nostdinc', `-isystem/usr/include/${arch}-linux-musl`, '-isystem@GCC_INCLUDE@']

/**
 * By the name of the folder in prebuilds/. `gcc`: the compiler. `before`, `after`: its further arguments. musl has no headers of the kernel, so
 * glibc's folders are searched last for these.
 */
export const TARGETS = {
  'linux-x64-glibc': { gcc: 'gcc', before: [], after: [] },
  'linux-arm64-glibc': { gcc: 'aarch64-linux-gnu-gcc', before: [], after: [] },
  'linux-x64-musl': {
    gcc: 'gcc',
    before: [...musl('x86_64'), '-idirafter/usr/include', '-idirafter/usr/include/x86_64-linux-gnu'],
    after: ['-nostdlib', '-L/usr/lib/x86_64-linux-musl', '-lc', '-lgcc']
  },
  'linux-arm64-musl': {
    gcc: 'aarch64-linux-gnu-gcc',
    before: [...musl('aarch64'), '-idirafter/usr/aarch64-linux-gnu/include'],
    after: ['-nostdlib', '-L/usr/lib/aarch64-linux-musl', '-lc', '-lgcc']
  }
}

/** binding.gyp is a literal of Python; of its strings these are needed. */
export function gyp() {
  const text = readFileSync(path('native/binding.gyp'), 'utf8')
  const list = name =>
    [...new RegExp(`'${name}': \\[([^\\]]*)\\]`).exec(text)[1].matchAll(/'([^']*)'/g)].map(([, one]) => one)
  return { sources: list('sources'), defines: list('defines'), cflags: list('cflags'), ldflags: list('ldflags') }
}

/** Of all files that a shim is built from: binaries of other sources must not be published. */
export function sourcesHash() {
  const hash = createHash('sha256')
  const files = ['waist', 'glue'].flatMap(folder =>
    readdirSync(path(`native/${folder}`)).map(name => `${folder}/${name}`)
  )
  for (const name of ['binding.gyp', ...files.sort()])
    hash.update(`${name}\n`).update(readFileSync(path(`native/${name}`)))
  return hash.digest('hex')
}
