/** Descriptors in the shell. `passfd store` is in ../store/. */
import type { Command } from 'commander'
import { registerInspect } from './inspect.ts'
import { registerReceive } from './receive.ts'
import { registerSend } from './send.ts'
import { registerTakeover } from './takeover.ts'

export function register(program: Command): void {
  registerSend(program)
  registerReceive(program)
  registerInspect(program)
  registerTakeover(program)
}
