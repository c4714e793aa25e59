/** `passfd store` in this process, with a store in this process. */
import { register } from '../../src/cli/store/store.ts'
import { connectStore, type OpenStoreOptions, openStore, type Store, type StoreClient } from '../../src/store/index.ts'
import { type Captured, captured, runPassfd } from './cli.ts'
import { socketPath } from './path.ts'
import type { Ended } from './shell.ts'

export interface StorePlace {
  readonly path: string
  readonly store: Store
  readonly client: StoreClient
  /** Runs `passfd store …`, which finds the store by PASSFD_STORE. */
  run(...args: string[]): Promise<Ended>
  runIn(streams: Captured, ...args: string[]): Promise<Ended>
}

/** Runs one of the commands of `passfd store`. */
export function storeCommand(args: readonly string[], streams?: Captured): Promise<Ended> {
  return runPassfd(['store', ...args], streams, [register])
}

/** An empty store, while `body` runs. */
export async function withStore(
  body: (place: StorePlace) => Promise<void>,
  options: OpenStoreOptions = {}
): Promise<void> {
  const path = socketPath()
  await using store = await openStore(path, options)
  await using client = await connectStore(path)
  const env = { ...process.env, PASSFD_STORE: path }
  const runIn = (streams: Captured, ...args: string[]): Promise<Ended> => storeCommand(args, streams)
  await body({ path, store, client, run: (...args) => runIn(captured(env), ...args), runIn })
}
