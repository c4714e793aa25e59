/**
 * The memory of large bodies that are lent to the program until a scope ends (the option `lendBuffers`). Then it is detached, so the program sees
 * no byte of it any more, and the next large body is received into it. All channels of a thread use the same memory.
 */
import { setInterval } from 'node:timers'
import { MessageChannel, receiveMessageOnPort } from 'node:worker_threads'
import { available, native } from '../os/native.ts'

/** The length of a block is a multiple of this, in bytes, so that bodies of nearly the same length can use the same block. */
const STEP = 16_384
/** The most bytes of idle blocks. */
const MOST_IDLE = 16_777_216
/** Blocks that were not needed for as long are freed. In ms. */
const IDLE_TIME = 1000

/** What is known of a lent block, besides its memory. */
interface Loan {
  /** How many messages under way the kernel reads from it, and 1 until the scope ends. */
  users: number
}

/** Weak, because a message whose scope never ends is collected together with its block. */
const loans = new WeakMap<object, Loan>()
/** Blocks that no program sees, the one that was used last at the end. */
const idle: ArrayBuffer[] = []
let idleBytes = 0
/** How many blocks were idle for all of the time since the timer's last call. */
let unneeded = 0
let timer: NodeJS.Timeout | undefined

/** Returns memory for a body of `length` bytes that will be lent. What its ArrayBuffer has beyond these bytes is zero. */
export function lendBody(length: number): Buffer {
  const block = take(length) ?? new ArrayBuffer(Math.ceil(length / STEP) * STEP)
  loans.set(block, { users: 1 })
  const bytes = Buffer.from(block)
  bytes.fill(0, length)
  return bytes.subarray(0, length)
}

/** The scope ends: detaches the block of a body, and uses it again, once no message that is under way needs it. */
export function endBodyLoan(body: ArrayBuffer): void {
  const loan = loans.get(body)
  if (loan !== undefined) leave(body, loan)
}

/** Gives the block of a body to the program for good. */
export function giveBody(body: ArrayBuffer): void {
  loans.delete(body)
}

/** Lends the blocks that the bytes of `holes` stand in until `sent` has settled, at least. */
export function keepLent(holes: readonly { readonly bytes: Uint8Array }[], sent: Promise<void>): void {
  for (const { bytes } of holes) {
    const { buffer } = bytes
    const loan = loans.get(buffer)
    if (loan === undefined) continue
    loan.users++
    const done = () => leave(buffer as ArrayBuffer, loan)
    void sent.then(done, done)
  }
}

/** @internal For tests: the number of idle blocks, and of their bytes. */
export function idleBlocks(): { count: number; bytes: number } {
  return { count: idle.length, bytes: idleBytes }
}

function leave(block: ArrayBuffer, loan: Loan): void {
  if (--loan.users > 0 || !loans.delete(block) || block.byteLength === 0) return // claimed, or transferred by the program
  const free = moved(block)
  if (free === undefined || block.byteLength > 0) return // the program has called markAsUntransferable(), so it keeps the block
  idle.push(free)
  idleBytes += free.byteLength
  while (idleBytes > MOST_IDLE) drop()
  timer ??= setInterval(dropUnneeded, IDLE_TIME).unref()
}

/** The last of the blocks that are long enough, and not much too long. */
function take(length: number): ArrayBuffer | undefined {
  for (let i = idle.length - 1; i >= 0; i--) {
    const block = idle[i]!
    if (block.byteLength < length || block.byteLength > 2 * length) continue
    idle.splice(i, 1)
    idleBytes -= block.byteLength
    unneeded = Math.min(unneeded, idle.length)
    return block
  }
  return undefined
}

function dropUnneeded(): void {
  for (; unneeded > 0; unneeded--) drop()
  unneeded = idle.length
  if (unneeded > 0) return
  clearInterval(timer)
  timer = undefined
}

/** Frees the block that was not used for the longest time. */
function drop(): void {
  const block = idle.shift()!
  idleBytes -= block.byteLength
  unneeded = Math.min(unneeded, idle.length)
  if (available) native.unmap(block) // at once, because the collector may not run for long
}

const { transfer } = ArrayBuffer.prototype as { transfer?: () => ArrayBuffer }
let ports: MessageChannel | undefined

/** Moves the memory to another ArrayBuffer. All views of the given one have length 0 afterwards, unless that is forbidden. */
function moved(block: ArrayBuffer): ArrayBuffer | undefined {
  try {
    if (transfer !== undefined) return transfer.call(block)
    // Node 20
    ports ??= new MessageChannel()
    ports.port1.postMessage(block, [block])
    return receiveMessageOnPort(ports.port2)!.message
  } catch {
    return undefined
  }
}
