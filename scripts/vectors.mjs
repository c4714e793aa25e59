// npm run vectors: writes docs/vectors.json. test/helpers/vectors.ts makes it.
import { writeFileSync } from 'node:fs'
import { textOf, vectors } from '../test/helpers/vectors.ts'

writeFileSync(new URL('../docs/vectors.json', import.meta.url), textOf(await vectors()))
process.exit()
