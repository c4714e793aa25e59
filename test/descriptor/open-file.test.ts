import * as fs from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import { Descriptor, type OpenFile } from '../../src/index.ts'
import { native } from '../../src/os/native.ts'
import { isOpen } from '../helpers/facts.ts'
import { temporaryPath } from '../helpers/path.ts'
import { test } from '../helpers/test.ts'

const CLOSED = { code: 'ERR_PASSFD_DESCRIPTOR_CLOSED', message: /This file was closed by close\(\)/ }

/** A file with ten digits in it, open for both directions. */
function digits(): { file: OpenFile; path: string; other: Descriptor; number: number } {
  const path = temporaryPath()
  fs.writeFileSync(path, '0123456789')
  const descriptor = Descriptor.openSync(path, 'r+')
  const other = descriptor.dup()
  const number = descriptor.borrow()
  return { file: descriptor.toFile(), path, other, number }
}

/** What somebody else who has the same open file reads next: it tells where the shared offset is. */
function next(other: Descriptor): string {
  const bytes = Buffer.alloc(1)
  return bytes.toString('utf8', 0, fs.readSync(other.borrow(), bytes))
}

test('every form of read() reads what that of a FileHandle reads', async t => {
  const { file, path, other } = digits()
  const handle = await fs.promises.open(path)
  const buffer = () => Buffer.alloc(8, '.')
  const forms: ((reader: Pick<OpenFile, 'read'>) => Promise<{ bytesRead: number; buffer: Uint8Array }>)[] = [
    reader => reader.read(buffer(), 1, 3, 2),
    reader => reader.read(buffer(), 6, undefined, 0),
    reader => reader.read(buffer(), null, null, 8),
    reader => reader.read({ buffer: buffer(), offset: 2, length: 2, position: 5 }),
    reader => reader.read(buffer(), { offset: 2, length: 2, position: 5 }),
    reader => reader.read({ position: 0 }),
    reader => reader.read(new Uint8Array(3), { position: 100 }),
    reader => reader.read(Buffer.alloc(0), 0, 0, 0),
    reader => reader.read(buffer(), 0, 2), // and now at the offset
    reader => reader.read(buffer(), 0, 2, null),
    reader => reader.read(buffer()),
    reader => reader.read(),
    reader => reader.read(buffer(), {})
  ]
  for (const [index, read] of forms.entries()) {
    const [ours, theirs] = [await read(file), await read(handle)]
    t.is(ours.bytesRead, theirs.bytesRead, `form ${index}`)
    t.deepEqual(ours.buffer, theirs.buffer, `form ${index}`)
  }
  t.is((await file.read(buffer(), 1, 3, 2n)).buffer.toString(), '.234....', 'which FileHandle takes for no position')
  await handle.close()
  await file.close()
  other.close()
})

test('every form of write() writes what that of a FileHandle writes', async t => {
  const forms: ((writer: Pick<OpenFile, 'write'>) => Promise<{ bytesWritten: number; buffer: unknown }>)[] = [
    writer => writer.write(Buffer.from('abcdef'), 1, 2, 20),
    writer => writer.write(Buffer.from('abcdef'), { offset: 3, length: 2, position: 30 }),
    writer => writer.write(Buffer.from('ghij'), 2),
    writer => writer.write(Buffer.from('klmn'), {}),
    writer => writer.write(new Uint8Array([65, 66])),
    writer => writer.write('text'),
    writer => writer.write('at', 15),
    writer => writer.write('00ff', null, 'hex')
  ]
  const { file, path, other } = digits()
  const second = digits()
  const handle = await fs.promises.open(second.path, 'r+')
  for (const [index, write] of forms.entries()) {
    const [ours, theirs] = [await write(file), await write(handle as unknown as OpenFile)]
    t.deepEqual(ours, theirs, `form ${index}`)
    t.deepEqual(fs.readFileSync(path), fs.readFileSync(second.path), `form ${index}`)
  }
  await handle.close()
  for (const each of [file, second.file]) await each.close()
  for (const each of [other, second.other]) each.close()
})

test('at a position the shared offset is neither used nor moved; without one it is both', async t => {
  const { file, other } = digits()
  t.is(next(other), '0')
  await file.read(Buffer.alloc(3), 0, 3, 5)
  await file.readv([Buffer.alloc(2)], 5)
  await file.write('x', 8)
  await file.writev([Buffer.from('y')], 9)
  t.is(next(other), '1', 'not moved')
  t.is((await file.read(Buffer.alloc(2), 0, 2)).buffer.toString(), '23', 'used')
  t.is(next(other), '4', 'moved')
  await file.write('-')
  t.is(next(other), '6')
  t.is(await file.readFile('utf8'), '7xy')
  await file.close()
  other.close()
})

test('readv and writev take several buffers', async t => {
  const { file, other } = digits()
  const buffers = [Buffer.alloc(3), Buffer.alloc(4)]
  t.is((await file.readv(buffers)).bytesRead, 7)
  t.deepEqual(buffers.map(String), ['012', '3456'])
  t.is((await file.writev([Buffer.from('ab'), Buffer.from('c')])).bytesWritten, 3)
  t.is((await file.readv(buffers, 5)).bytesRead, 5)
  t.deepEqual(buffers.map(String), ['56a', 'bc56'])
  await file.close()
  other.close()
})

test('readFile, writeFile and appendFile work from the offset on', async t => {
  const { file, path, other } = digits()
  t.is(next(other), '0')
  t.is((await file.readFile()).toString(), '123456789')
  t.is(await file.readFile({ encoding: 'utf8' }), '')
  await file.writeFile('abc')
  await file.writeFile(Buffer.from('def'))
  await file.appendFile(['g', Buffer.from('h')])
  await file.writeFile(
    (async function* () {
      yield 'i'
      yield 'j'
    })()
  )
  await file.writeFile('6b', 'hex')
  t.is(fs.readFileSync(path, 'utf8'), '0123456789abcdefghijk')
  const aborted = AbortSignal.abort()
  await t.throwsAsync(file.readFile({ signal: aborted }), { name: 'AbortError' })
  await t.throwsAsync(file.writeFile('x', { signal: aborted }), { name: 'AbortError' })
  await file.close()
  other.close()
})

test('what can not be read into or written is refused as by a FileHandle', async t => {
  const { file, path, other } = digits()
  const handle = await fs.promises.open(path, 'r+')
  for (const wrong of [5, {}, undefined, null, true] as any[])
    for (const one of [file, handle])
      await t.throwsAsync(one.writeFile(wrong), { name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE' })
  for (const wrong of [5, 'text', true] as any[])
    for (const one of [file, handle])
      await t.throwsAsync((one as OpenFile).read(wrong), { name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE' })
  await handle.close()
  await file.close()
  other.close()
})

test('stat, truncate, sync and datasync do it to the file', async t => {
  const { file, path, other } = digits()
  const status = await file.stat()
  t.is(status.size, 10)
  t.is(status.ino, fs.statSync(path).ino)
  t.is((await file.stat({ bigint: true })).size, 10n)
  await file.truncate(4)
  t.is(fs.readFileSync(path, 'utf8'), '0123')
  await file.truncate(5)
  t.is(fs.readFileSync(path, 'latin1'), '0123\0')
  await file.truncate()
  t.is((await file.stat()).size, 0)
  await file.sync()
  await file.datasync()
  await file.close()
  other.close()
  const pipe = Descriptor.openSync('/dev/null', 'r+').toFile()
  await t.throwsAsync(pipe.truncate(1), { code: 'EINVAL' }, "failures are Node's own")
  await pipe.close()
})

test('close() waits for what has begun; what begins later is an error', async t => {
  const { file, number, other } = digits()
  const held = native.held()
  const ended: string[] = []
  const reads = Array.from({ length: 20 }, (_, index) =>
    file.read(Buffer.alloc(1), 0, 1, index % 10).then(({ buffer }) => ended.push(String(buffer)))
  )
  const closing = file.close()
  t.is(file.close(), closing, 'a second call gives the same')
  const late: (() => Promise<unknown>)[] = [
    () => file.read(),
    () => file.write('x'),
    () => file.readv([Buffer.alloc(1)]),
    () => file.writev([Buffer.alloc(1)]),
    () => file.readFile(),
    () => file.writeFile('x'),
    () => file.appendFile('x'),
    () => file.stat(),
    () => file.truncate(),
    () => file.sync(),
    () => file.datasync()
  ]
  for (const use of late) await t.throwsAsync(use(), CLOSED)
  t.true(isOpen(number) || ended.length === 20)
  await closing.then(() => t.is(ended.length, 20))
  await Promise.all(reads)
  t.false(isOpen(number))
  t.is(native.held(), held - 1)
  for (const use of late) await t.throwsAsync(use(), CLOSED)
  await file.close()
  other.close()
})

test('await using closes it', async t => {
  const { file, number, other } = digits()
  await file[Symbol.asyncDispose]()
  t.false(isOpen(number))
  other.close()
})

test('a memfd and a device are files, too; anything else is refused and kept', async t => {
  const memory = Descriptor.memfd().toFile()
  await memory.write('in memory', 0)
  t.is(await memory.readFile('utf8'), 'in memory')
  await memory.close()
  const device = Descriptor.openSync('/dev/zero').toFile()
  t.deepEqual((await device.read(Buffer.alloc(3, 'x'))).buffer, Buffer.alloc(3))
  await device.close()
  const [left, right] = Descriptor.socketpair()
  for (const wrong of [Descriptor.openSync('/'), left, right]) {
    t.throws(() => wrong.toFile(), {
      code: 'ERR_PASSFD_DESCRIPTOR_KIND',
      message: `toFile() needs a descriptor of kind file or memfd or device; this one is a ${wrong.kind}.`
    })
    wrong.close()
  }
})

test('trap 39: an OpenFile has no fd property', async t => {
  const { file, other } = digits()
  await turn()
  t.false('fd' in file)
  t.deepEqual(Reflect.ownKeys(file), [])
  await file.close()
  other.close()
})
