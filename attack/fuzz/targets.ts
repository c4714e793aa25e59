/** What is fuzzed: everything that reads bytes or values of another process. */
import type { Targets } from './target.ts'
import { channelTargets } from './targets/channel.ts'
import { codecTargets } from './targets/codec.ts'
import { preforkTargets } from './targets/prefork.ts'
import { storeTargets } from './targets/store.ts'
import { systemTargets } from './targets/system.ts'
import { takeoverTargets } from './targets/takeover.ts'

export const TARGETS: Targets = {
  ...channelTargets,
  ...codecTargets,
  ...preforkTargets,
  ...storeTargets,
  ...systemTargets,
  ...takeoverTargets
}
