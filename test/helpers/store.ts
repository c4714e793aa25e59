/** Stores, and programs that use them: here and in processes of their own. */
import { readdirSync } from 'node:fs'
import { Descriptor } from '../../src/index.ts'
import { connectStore, type OpenStoreOptions, openStore, type Store, type StoreClient } from '../../src/store/index.ts'
import { socketPath } from './path.ts'
import { startFixture } from './process.ts'

/** Another process that does what the test says. */
export interface Program extends AsyncDisposable {
  readonly pid: number
  /** Runs code with `store`, `passfd` and `kept`, and resolves to its JSON value. Rejects with an error that has the code of the one there. */
  run<T = any>(code: string): Promise<T>
  /** How many descriptors it has open. */
  open(): number
  kill(signal?: NodeJS.Signals): Promise<void>
  /** Lets it end, and returns what it has written there. */
  stderr(): Promise<string>
}

/** `uid`: another user. */
export function startProgram(uid?: number): Program {
  const { child, line, exit } = startFixture('store-program', uid === undefined ? [] : [`${uid}`])
  const kill = async (signal: NodeJS.Signals = 'SIGKILL'): Promise<void> => {
    child.kill(signal)
    await exit
  }
  return {
    pid: child.pid!,
    async run(code) {
      child.stdin!.write(`${JSON.stringify(code)}\n`)
      const { value, error } = JSON.parse(await line())
      if (error !== undefined) throw Object.assign(new Error(error.message), { code: error.code })
      return value
    },
    open: () => readdirSync(`/proc/${child.pid}/fd`).length,
    kill,
    async stderr() {
      child.stdin!.end()
      return (await exit).stderr
    },
    [Symbol.asyncDispose]: () => kill()
  }
}

/** A store in a process of its own. */
export async function startStore(path: string, options: object = {}): Promise<Program> {
  const program = startProgram()
  try {
    await program.run(`kept.store = await store.openStore(${JSON.stringify(path)}, ${JSON.stringify(options)})
      kept.store.ended.then(() => { kept.ended = true })`)
    return program
  } catch (error) {
    await program.kill()
    throw error
  }
}

/** A store and clients of it in this process. All are closed at the end. */
export async function withStore(
  work: (path: string, clients: StoreClient[], store: Store) => Promise<void>,
  options: OpenStoreOptions & { clients?: number } = {}
): Promise<void> {
  const { clients: count = 1, ...rest } = options
  const path = socketPath()
  const store = await openStore(path, rest)
  const clients: StoreClient[] = []
  try {
    for (let i = 0; i < count; i++) clients.push(await connectStore(path))
    await work(path, clients, store)
  } finally {
    for (const client of clients) await client.close()
    await store.close()
  }
}

/** Memory with a text in it. */
export async function memory(text: string): Promise<Descriptor> {
  const descriptor = Descriptor.memfd('test', { size: Buffer.byteLength(text) })
  const file = descriptor.dup().toFile()
  await file.write(Buffer.from(text), { position: 0 })
  await file.close()
  return descriptor
}

/** The text in memory, which is closed. */
export async function textIn(descriptor: Descriptor): Promise<string> {
  const file = descriptor.toFile()
  try {
    const { size } = await file.stat()
    const { buffer } = await file.read(Buffer.alloc(Number(size)), { position: 0 })
    return String(buffer)
  } finally {
    await file.close()
  }
}
