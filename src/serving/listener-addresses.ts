/** From which listener a connection came. Node's servers do not say it if they serve several. */
import { isDeepStrictEqual } from 'node:util'
import { addressOf, type ListenAddress } from './bound-socket.ts'
import type { ListenerGrant } from './listener-grant.ts'

/** Addresses that stand for every address of the host. */
const ANY: readonly string[] = ['0.0.0.0', '::']

export class ListenerAddresses {
  readonly #addresses = new Map<string, ListenAddress>()

  /** Notes the addresses of these listeners, by name. They may be closed afterwards. */
  note(listeners: ReadonlyMap<string, Pick<ListenerGrant, 'listener'>>): void {
    for (const [name, { listener }] of listeners)
      if (!listener.closed) this.#addresses.set(name, addressOf(listener.borrow()))
  }

  /** Returns which of the listeners `names` a connection came from, by its own address. Undefined: it could be several of them, or none. */
  listenerOf(connection: number, names: readonly string[]): string | undefined {
    if (names.length <= 1) return names[0]
    const local = addressOf(connection)
    const possible = names.filter(name => leadsTo(this.#addresses.get(name), local))
    const exact = possible.filter(name => isDeepStrictEqual(this.#addresses.get(name), local))
    const [name, further] = exact.length > 0 ? exact : possible
    return further === undefined ? name : undefined
  }
}

/** Whether a connection with this address of its own may have come from the listener. */
function leadsTo(listener: ListenAddress | undefined, local: ListenAddress): boolean {
  if (listener === undefined) return false
  if ('path' in listener || 'path' in local) return isDeepStrictEqual(listener, local)
  return listener.port === local.port && (listener.address === local.address || ANY.includes(listener.address))
}
