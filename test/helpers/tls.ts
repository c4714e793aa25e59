/** TLS with a key that both sides know, so that no certificate is needed. */
import type { ConnectionOptions, TlsOptions } from 'node:tls'

const psk = Buffer.alloc(16, 'known')
const common = { ciphers: 'PSK', maxVersion: 'TLSv1.2' } as const

export const serverKey: TlsOptions = { ...common, pskCallback: () => psk, pskIdentityHint: 'passfd' }
export const clientKey: ConnectionOptions = {
  ...common,
  pskCallback: () => ({ psk, identity: 'test' }),
  checkServerIdentity: () => undefined
}
