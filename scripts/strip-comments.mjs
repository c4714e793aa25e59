/** Takes the comments out of the modules in dist/: the declarations have those that users read, and the rest would be a seventh of the package. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { transform } from 'esbuild'
import { filesIn } from '../test/helpers/files-in.mjs'

const dist = fileURLToPath(new URL('../dist', import.meta.url))
/** A bundle, and modules with the licence of others. */
const AS_IT_IS = /^(cli|codec\/msgpackr)\//

const modules = filesIn(dist).filter(name => /\.c?js$/.test(name) && !AS_IT_IS.test(name))
await Promise.all(
  modules.map(async name => {
    const path = join(dist, name)
    const { code } = await transform(readFileSync(path, 'utf8'), { loader: 'js', target: 'es2022' })
    writeFileSync(path, code)
  })
)
