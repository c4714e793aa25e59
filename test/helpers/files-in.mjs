import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'

/** Links are not followed: one in test/runners leads back to the root. (Node 22's own recursive readdir follows them.) */
export function filesIn(folder) {
  if (!existsSync(folder)) return []
  return readdirSync(folder, { withFileTypes: true }).flatMap(entry => {
    if (!entry.isDirectory()) return [entry.name]
    return entry.name === 'node_modules' ? [] : filesIn(join(folder, entry.name)).map(name => join(entry.name, name))
  })
}
