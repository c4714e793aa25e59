/**
 * Where the project lives, by the one field `repository` of package.json. `npm publish` runs this first (prepublishOnly), and fails while the field is not
 * filled in.
 */
import { readFileSync } from 'node:fs'
import { argv } from 'node:process'
import { fileURLToPath } from 'node:url'
import { path } from './targets.mjs'

/** The fields that follow from `repository`, and are not in the manifest itself. GitHub, GitLab and Forgejo have them at the same places. */
export function homeOf({ repository, homepage, bugs }) {
  const url = typeof repository === 'string' ? repository : repository?.url
  const web = /^(?:git\+)?(https:\/\/[^/]+\/.+?)(?:\.git)?\/?$/.exec(url ?? '')?.[1]
  if (web === undefined) return undefined
  return {
    ...(homepage === undefined ? { homepage: `${web}#readme` } : {}),
    ...(bugs === undefined ? { bugs: `${web}/issues` } : {})
  }
}

if (argv[1] === fileURLToPath(import.meta.url)) {
  const { repository } = JSON.parse(readFileSync(path('package.json'), 'utf8'))
  if (homeOf({ repository }) === undefined) {
    console.error(
      `The field "repository" of package.json is ${repository === undefined ? 'not filled in' : `${JSON.stringify(repository)}, which is no URL with https`}. Set it to the URL of the public repository, as CONTRIBUTING.md says: nothing is published before.`
    )
    process.exit(1)
  }
}
