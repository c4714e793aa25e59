import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
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
  const { header } = process.report.getReport() as unknown as { header: { glibcVersionRuntime?: string } }
  t.is(libcOf(), header.glibcVersionRuntime === undefined ? 'musl' : 'glibc') // this Node
  t.is(libcOf(program('/lib/ld-musl-x86_64.so.1')), 'musl')
  t.is(libcOf(program('/lib/ld-linux-aarch64.so.1')), 'glibc')
  t.is(libcOf(program(undefined)), undefined)
})

test('wherever in the file the name of the loader stands', t => {
  const bytes = readFileSync(program('/lib/ld-musl-x86_64.so.1'))
  const [place, size] = [Number(bytes.readBigUInt64LE(32)), bytes.readUInt16LE(54)]
  const headers = Array.from({ length: bytes.readUInt16LE(56) }, (_, index) => place + index * size)
  const header = headers.find(one => bytes.readUInt32LE(one) === 3)! // PT_INTERP
  const name = Number(bytes.readBigUInt64LE(header + 8))
  const moved = Buffer.concat([bytes, Buffer.alloc(100_000), bytes.subarray(name, name + 26)])
  moved.writeBigUInt64LE(BigInt(bytes.length + 100_000), header + 8)
  const path = temporaryPath('moved')
  writeFileSync(path, moved)
  t.is(libcOf(path), 'musl')
})

test('what is no program, or cut off, or not there', t => {
  const [text, cut] = [temporaryPath('text'), temporaryPath('cut')]
  writeFileSync(text, '#!/bin/sh\n'.repeat(500))
  writeFileSync(cut, Buffer.from('7f454c4602010100', 'hex'))
  for (const path of [text, cut, '/does/not/exist', '/', '/dev/null']) t.is(libcOf(path), undefined, path)
})
