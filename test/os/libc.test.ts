import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { libcOf } from '../../src/os/libc.ts'
import { temporaryPath } from '../helpers/path.ts'
import { test } from '../helpers/test.ts'

/** A program that names this loader. */
function program(loader: string | undefined): string {
  const path = temporaryPath('program')
  const interpreter = loader === undefined ? ['-static-pie'] : [`-Wl,--dynamic-linker=${loader}`]
  execFileSync('gcc', ['-nostdlib', '-pie', ...interpreter, '-x', 'c', '/dev/null', '-o', path], { stdio: 'ignore' })
  return path
}

test('by the loader that a program names', t => {
  t.is(libcOf(), 'glibc') // this Node
  t.is(libcOf(program('/lib/ld-musl-x86_64.so.1')), 'musl')
  t.is(libcOf(program('/lib/ld-linux-aarch64.so.1')), 'glibc')
  t.is(libcOf(program(undefined)), undefined)
})

test('what is no program, or cut off, or not there', t => {
  const [text, cut] = [temporaryPath('text'), temporaryPath('cut')]
  writeFileSync(text, '#!/bin/sh\n'.repeat(500))
  writeFileSync(cut, Buffer.from('7f454c4602010100', 'hex'))
  for (const path of [text, cut, '/does/not/exist', '/', '/dev/null']) t.is(libcOf(path), undefined, path)
})
