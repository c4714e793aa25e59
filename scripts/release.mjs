/**
 * `npm run release -- <patch|minor|major|x.y.z> [--dry-run]`: checks all that a release needs, sets the version, commits and tags it, and pushes both in
 * one step. The tag starts .github/workflows/release.yml, which builds, tests and publishes. Nothing is changed unless all checks pass.
 * With --dry-run it stops after the checks, without the tests. `--tag <tag>`: what the workflow checks first.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { homeOf } from './home.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const BRANCH = 'main'
const VERSION = /^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)$/
const USAGE = 'usage: npm run release -- <patch|minor|major|x.y.z> [--dry-run]'
/** All files that contain the version. */
const PLACES = {
  'package.json': version => [/("version": ")[^"]+/, `$1${version}`],
  'package-lock.json': version => [/("name": "passfd",\n(\s*)"version": ")[^"]+/g, `$1${version}`],
  'src/base/version.ts': version => [/(version: string = ')[^']+/, `$1${version}`],
  'native/glue/addon.c': version => [/(SHIM_VERSION ")[^"]+/, `$1${version}`]
}

/** What keeps a release from being made, as one sentence, with what to do. */
class Refusal extends Error {}

try {
  const [what, option, ...rest] = process.argv.slice(2)
  if (what === '--tag' && option !== undefined && rest.length === 0) checkTag(option)
  else if (what !== undefined && [undefined, '--dry-run'].includes(option) && rest.length === 0)
    // npm keeps the option to itself if it stands before "--", and says so in a variable
    release(what, option !== undefined || process.env.npm_config_dry_run === 'true')
  else throw new Refusal(USAGE)
} catch (error) {
  if (!(error instanceof Refusal)) throw error
  console.error(`release: ${error.message}`)
  process.exitCode = 1
}

function release(what, isDry) {
  const current = JSON.parse(read('package.json')).version
  const version = next(current, what)
  const tag = `v${version}`
  check('the branch', checkBranch)
  check('the working tree', checkClean)
  check('the tag', () => checkNoTag(tag))
  check('the changelog', () => notesOf(version, 'unreleased'))
  check('package.json', checkManifest)
  if (isDry) {
    console.log(
      `release: all checks pass. Without --dry-run this runs bash .ci/run, sets ${version}, commits, tags ${tag} and pushes`
    )
    return
  }
  if (spawnSync('bash', ['.ci/run'], { cwd: root, stdio: 'inherit' }).status !== 0)
    throw new Refusal('bash .ci/run has failed. Mend what it names; nothing was changed.')
  check('the working tree', checkClean)
  const before = git('rev-parse', 'HEAD').trim()
  try {
    setVersion(version)
    if (git('status', '--porcelain').trim() !== '')
      step('commit', '--quiet', '--all', '--message', `release: ${version}`)
    step('tag', '--annotate', tag, '--message', `passfd ${version}\n\n${notesOf(version)}`, '--cleanup=verbatim')
    step('push', '--quiet', '--atomic', 'origin', `HEAD:${BRANCH}`, tag)
  } catch (error) {
    git('reset', '--quiet', '--hard', before)
    if (git('tag', '--list', tag).trim() !== '') git('tag', '--delete', tag)
    throw error
  }
  console.log(`release: ${tag} is pushed. The workflow "release" publishes it when its tests have passed`)
}

function setVersion(version) {
  for (const [path, change] of Object.entries(PLACES)) rewrite(path, ...change(version))
  rewrite(
    'CHANGELOG.md',
    headingOf(version, 'unreleased'),
    `## [${version}] - ${new Date().toISOString().slice(0, 10)}`
  )
}

/** A command of git that changes something. The release is undone if it fails. */
function step(command, ...args) {
  const { status, stderr } = spawnSync('git', [command, ...args], { cwd: root, encoding: 'utf8' })
  if (status !== 0)
    throw new Refusal(`git ${command} has failed, and nothing was changed. Mend what it names:\n${stderr.trim()}`)
}

/** What a tag promises. Prints the notes, for the page of the release. */
function checkTag(tag) {
  const { version } = JSON.parse(read('package.json'))
  if (tag !== `v${version}`) throw new Refusal(`the tag is ${tag}, but package.json has the version ${version}.`)
  for (const path of Object.keys(PLACES))
    if (!read(path).includes(version)) throw new Refusal(`${path} does not have the version ${version}.`)
  checkManifest()
  console.log(notesOf(version))
}

function next(current, what) {
  const [, ...numbers] = VERSION.exec(current) ?? []
  if (VERSION.test(what)) {
    const [, ...wanted] = VERSION.exec(what)
    const index = [0, 1, 2].find(index => wanted[index] !== numbers[index])
    if (index !== undefined && Number(wanted[index]) < Number(numbers[index]))
      throw new Refusal(`${what} is older than ${current}, the version in package.json.`)
    return what
  }
  const place = ['major', 'minor', 'patch'].indexOf(what)
  if (place < 0) throw new Refusal(USAGE)
  return numbers.map((number, index) => (index < place ? number : index === place ? Number(number) + 1 : 0)).join('.')
}

function check(what, body) {
  body()
  console.log(`release: ${what}: ok`)
}

function checkBranch() {
  const branch = git('branch', '--show-current').trim()
  if (branch !== BRANCH) throw new Refusal(`the branch is ${branch || 'none'}. Run "git switch ${BRANCH}".`)
  git('fetch', '--quiet', '--no-tags', 'origin', BRANCH)
  if (git('rev-parse', 'HEAD') !== git('rev-parse', 'FETCH_HEAD'))
    throw new Refusal(`${BRANCH} is not what origin has. Run "git pull --rebase" or "git push", and let CI test it.`)
}

function checkClean() {
  const files = git('status', '--porcelain').trim()
  if (files !== '') throw new Refusal(`the working tree has changes. Commit or remove them:\n${files}`)
}

function checkNoTag(tag) {
  if (`${git('tag', '--list', tag)}${git('ls-remote', 'origin', `refs/tags/${tag}`)}`.trim() !== '')
    throw new Refusal(`the tag ${tag} exists already. A published version can't be replaced: choose the next one.`)
}

/** The text of a version's section. */
function notesOf(version, date = '\\d{4}-\\d{2}-\\d{2}') {
  const heading = headingOf(version, date).exec(read('CHANGELOG.md'))
  if (heading === null)
    throw new Refusal(
      `CHANGELOG.md has no section "## [${version}] - ${date.includes('\\d') ? '<date>' : date}". Add it, with what users notice.`
    )
  const [notes] = heading.input.slice(heading.index + heading[0].length).split(/^## /m)
  if (!/^- \S/m.test(notes))
    throw new Refusal(`the section of ${version} in CHANGELOG.md is empty. Add what users notice.`)
  return notes.trim()
}

function headingOf(version, date) {
  return new RegExp(`^## \\[${version.replaceAll('.', '\\.')}\\] - ${date}$`, 'm')
}

/** npm shows where the sources are, and its provenance compares that with the place of the workflow. */
function checkManifest() {
  const { repository, private: isPrivate } = JSON.parse(read('package.json'))
  if (homeOf({ repository }) === undefined)
    throw new Refusal(
      'the field "repository" of package.json is not filled in. Set it to the URL of the public repository.'
    )
  if (isPrivate) throw new Refusal('package.json says "private": true, so npm does not publish it.')
  if (!existsSync(join(root, '.github/workflows/release.yml')))
    throw new Refusal('.github/workflows/release.yml is missing.')
}

function rewrite(path, pattern, text) {
  const before = read(path)
  if (before.search(pattern) < 0) throw new Error(`${path} does not have what is to be replaced`)
  writeFileSync(join(root, path), before.replace(pattern, text))
}

function read(path) {
  return readFileSync(join(root, path), 'utf8')
}

function git(...args) {
  return execFileSync('git', args, { cwd: root, encoding: 'utf8' })
}
