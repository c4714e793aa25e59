/** `node --import …/use-compiled.mjs FILE.ts`: in place of each source that scripts/compile-tests.mjs compiles, runs what it made of it; and in place of `passfd` the bundle that it makes. */
import { register } from 'node:module'

register('./compiled-hooks.mjs', import.meta.url)
