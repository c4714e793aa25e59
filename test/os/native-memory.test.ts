import * as fs from 'node:fs'
import '../../src/os/loop.ts'
import { native } from '../../src/os/native.ts'
import { identity, isCloseOnExec } from '../helpers/facts.ts'
import { collect, mapsOf, noHugePages, startHuge } from '../helpers/memory.ts'
import { test, testIf, until } from '../helpers/test.ts'

// fcntl(2)
const SEAL = 1
const SHRINK = 2
const GROW = 4
const WRITE = 8
const FUTURE_WRITE = 16

const EPERM = -1
const EBADF = -9
const EACCES = -13
const ENODEV = -19
const EINVAL = -22
const EFBIG = -27
const ERANGE = -34

const SIZE = 8192

/** The ArrayBuffer, or -errno. */
function map(fd: number, size: number, writable: boolean): ArrayBuffer | number {
  const holder: ArrayBuffer[] = []
  const result = native.map(fd, size, writable, holder)
  return result < 0 ? result : holder[0]!
}

function memfd(name: string, size: number, seals: number): number {
  const fd = native.memfd(name, size)
  if (seals !== 0) native.seal(fd, seals)
  return fd
}

test('memfd: its size, its name, close-on-exec, held, sealable', t => {
  const fd = native.memfd('passfd-x', SIZE)
  t.is(fs.fstatSync(fd).size, SIZE)
  t.is(fs.readlinkSync(`/proc/self/fd/${fd}`), '/memfd:passfd-x (deleted)')
  t.true(isCloseOnExec(fd))
  t.is(native.seals(fd)! & (SEAL | SHRINK | GROW | WRITE | FUTURE_WRITE), 0)
  t.is(native.seal(fd, SHRINK | GROW), 0)
  t.is(native.seals(fd) & 31, SHRINK | GROW)
  t.throws(() => fs.ftruncateSync(fd, 1), { code: 'EPERM' })
  t.throws(() => fs.ftruncateSync(fd, SIZE + 1), { code: 'EPERM' })
  t.is(native.seal(fd, SEAL), 0)
  t.is(native.seal(fd, WRITE), EPERM)
  t.is(native.close(fd), 0)
})

test('memfd: names and sizes at their limits', t => {
  const fd = native.memfd('n'.repeat(249), 0)
  t.true(fd >= 0)
  native.close(fd)
  t.is(native.memfd('n'.repeat(250), 1), EINVAL)
  t.is(native.memfd('a\0b', 1), EINVAL)
  t.is(native.memfd('x', -1), EINVAL)
})

test('seals: only memory has them', t => {
  const file = fs.openSync('/proc/self/exe', 'r')
  t.is(native.seals(file), EINVAL)
  t.is(native.seal(file, SHRINK), EPERM, 'open for reading only')
  t.is(map(file, 1, false), EINVAL)
  fs.closeSync(file)
  t.is(native.seals(file), EBADF)
  t.is(map(file, 1, false), EBADF)
})

test('trap 27: memory that may shrink is not mapped', t => {
  for (const seals of [0, GROW, GROW | WRITE, SEAL]) {
    const fd = memfd('passfd-shrinks', SIZE, seals)
    t.is(map(fd, SIZE, false), EPERM, String(seals))
    t.is(map(fd, SIZE, true), EPERM, String(seals))
    native.close(fd)
  }
  t.is(mapsOf('passfd-shrinks'), 0)
})

test('trap 27: memory is mapped up to its size and no further', t => {
  const fd = memfd('passfd-size', SIZE, SHRINK)
  for (const size of [SIZE + 1, SIZE * 2, 2 ** 32]) t.is(map(fd, size, false), ERANGE, String(size))
  for (const size of [0, -1]) t.is(map(fd, size, false), ERANGE, String(size))
  for (const size of [1, SIZE - 1, SIZE]) {
    const buffer = map(fd, size, false) as ArrayBuffer
    t.is(buffer.byteLength, size)
    native.unmap(buffer)
  }
  native.close(fd)
})

test('trap 27: more than a buffer can be is refused, not tried', t => {
  const fd = memfd('passfd-huge', 2 ** 40, SHRINK)
  const most = map(fd, 2 ** 32, true) as ArrayBuffer
  t.is(most.byteLength, 2 ** 32)
  new Uint8Array(most)[2 ** 32 - 1] = 1
  native.unmap(most)
  for (const size of [2 ** 32 + 1, 2 ** 40, Number.MAX_SAFE_INTEGER]) t.is(map(fd, size, true), EFBIG)
  native.close(fd)
})

testIf(noHugePages, 'trap 27: huge pages are not mapped', async t => {
  const [path, python] = await startHuge()
  const fd = fs.openSync(path, 'r+')
  t.is(native.seals(fd) & SHRINK, SHRINK)
  t.is(map(fd, 4096, false), ENODEV)
  fs.closeSync(fd)
  python.child.stdin!.end()
  await python.exit
})

test('map: what one writes the other sees, unless it is mapped for itself', t => {
  const fd = memfd('passfd-shared', SIZE, SHRINK)
  const [one, two, own] = [true, true, false].map(writable => new Uint8Array(map(fd, SIZE, writable) as ArrayBuffer))
  one![0] = 1
  t.is(two![0], 1)
  t.is(own![0], 1)
  two![0] = 2
  t.is(one![0], 2)
  t.is(own![0], 2)
  own![0] = 3
  t.is(one![0], 2)
  one![1] = 4
  t.is(own![1], 0, 'its page is a copy now')
  for (const { buffer } of [one!, two!, own!]) native.unmap(buffer as ArrayBuffer)
  native.close(fd)
})

test('map: the mapping needs the descriptor no longer', t => {
  const fd = memfd('passfd-alone', SIZE, SHRINK)
  const bytes = new Uint8Array(map(fd, SIZE, true) as ArrayBuffer)
  native.close(fd)
  bytes.fill(7)
  t.is(bytes[SIZE - 1], 7)
  native.unmap(bytes.buffer as ArrayBuffer)
})

test('map: what may not be written is not mapped for that', t => {
  const fd = memfd('passfd-read', SIZE, SHRINK)
  const read = fs.openSync(`/proc/self/fd/${fd}`, 'r')
  t.is(identity(read), identity(fd))
  t.is(map(read, SIZE, true), EACCES)
  t.true(map(read, SIZE, false) instanceof ArrayBuffer)
  const writer = new Uint8Array(map(fd, SIZE, true) as ArrayBuffer)
  t.is(native.seal(fd, FUTURE_WRITE), 0)
  t.is(map(fd, SIZE, true), EPERM)
  const reader = new Uint8Array(map(fd, SIZE, false) as ArrayBuffer)
  writer[0] = 1
  t.is(reader[0], 1, 'who had mapped it before goes on')
  fs.closeSync(read)
  native.close(fd)
})

test('unmap: the views are empty and the memory is gone', async t => {
  const fd = memfd('passfd-unmap', SIZE, SHRINK)
  const buffer = map(fd, SIZE, true) as ArrayBuffer
  const view = new Uint8Array(buffer)
  t.is(mapsOf('passfd-unmap'), 1)
  t.is(native.unmap(buffer), 0)
  t.is(buffer.byteLength, 0)
  t.is(view.length, 0)
  await until(() => mapsOf('passfd-unmap') === 0, 'the map to go')
  t.is(native.unmap(buffer), 0, 'twice')
  native.close(fd)
})

test('what nobody looks at any more is unmapped by the collector', async t => {
  const fd = memfd('passfd-gone', SIZE, SHRINK)
  const kept = (() => new Uint8Array(map(fd, SIZE, true) as ArrayBuffer).subarray(1, 2))()
  ;(() => map(fd, SIZE, true))()
  native.close(fd)
  await until(() => {
    collect()
    return mapsOf('passfd-gone') === 1
  }, 'one of two maps to go')
  collect()
  kept[0] = 1
  t.is(kept[0], 1)
  native.unmap(kept.buffer as ArrayBuffer)
})

test("V8 counts what is mapped as the objects' memory", t => {
  const fd = memfd('passfd-count', 2 ** 28, SHRINK)
  const before = process.memoryUsage().external
  const buffer = map(fd, 2 ** 28, true) as ArrayBuffer
  t.true(process.memoryUsage().external - before > 2 ** 27)
  native.unmap(buffer)
  native.close(fd)
})
