/** The pages of docs/jobs, docs/from and docs/deploy: their programs are the files of examples/jobs, and their sessions print what they show. */
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { transformSync } from 'esbuild'
import { temporaryPath } from './helpers/path.ts'
import { type Block, blocksOf, play } from './helpers/session.mjs'
import { test, testInCiIf } from './helpers/test.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const FOLDERS = ['docs/jobs', 'docs/from', 'docs/deploy']
const pages = FOLDERS.flatMap(folder => readdirSync(root + folder).map(name => `${folder}/${name}`)).filter(name =>
  name.endsWith('.md')
)
const read = (path: string): string => readFileSync(root + path, 'utf8')
/** `<!-- needs: root /usr/sbin/nginx -->` */
const NEEDS = /^<!-- needs: (.*) -->$/m

// esbuild opens a thread once: before anything is counted
transformSync('')

for (const page of pages) {
  const text = read(page)
  const blocks: Block[] = blocksOf(text)
  const folder = `examples/${page.slice('docs/'.length, -'.md'.length)}`

  test(`${page}: its programs are the files in ${folder}`, t => {
    const named = blocks.filter(({ name }) => name !== undefined)
    for (const { name, code, line } of named) t.is(read(`${folder}/${name}`), code, `line ${line}`)
    for (const [, paths] of text.matchAll(/^<!-- files: (.*) -->$/gm))
      for (const path of paths!.split(' ')) t.true(text.includes(`](../../${path})`), `a reader finds ${path}`)
    if (page.startsWith('docs/jobs/')) t.true(text.split('\n').length <= 121, 'it fits on 120 lines')
  })

  for (const block of blocks.filter(({ language }) => language === 'console'))
    testInCiIf(lacking(text), `${page}, line ${block.line}: the session prints what it shows`, async t => {
      const workspace = temporaryPath('shop')
      mkdirSync(workspace)
      const results = await play(workspace, text, block)
      for (const { text: command, code, missing, others } of results) {
        t.deepEqual(missing, [], `${command}: others came: ${others.join('\n')}`)
        t.deepEqual(others, [], command)
        t.true([undefined, 0].includes(code as number), `${command} ended with ${code}`)
      }
    })
}

test("a `wait` of a session names its process: in the reader's one shell, a bare one waits for the server, too", t => {
  for (const page of pages)
    for (const { code } of blocksOf(read(page)).filter(({ language }) => language === 'console'))
      t.notRegex(code, /^\$ .*\bwait *(?:;|$)/m, page)
})

test('docs/deploy: what ends a server waits longer than passfd needs', t => {
  const seconds = (text: string, pattern: RegExp): number => Number(pattern.exec(text)![1])
  const unit = read('docs/deploy/systemd.md')
  t.true(seconds(unit, /^TimeoutStopSec=(\d+)$/m) > 30 + 5)
  const kubernetes = read('docs/deploy/kubernetes.md')
  const lameDuck = seconds(kubernetes, /--lame-duck, (\d+)s,/)
  const stop = seconds(kubernetes, /--stop-timeout, (\d+)s,/)
  t.true(seconds(kubernetes, /terminationGracePeriodSeconds: (\d+)$/m) > lameDuck + stop + 5)
  const docker = read('docs/deploy/docker.md')
  const limits = seconds(docker, /"--lame-duck", "(\d+)s"/) + seconds(docker, /"--stop-timeout", "(\d+)s"/)
  t.true(seconds(docker, /stop_grace_period: (\d+)s/) > limits + 5)
})

test('examples/jobs/live/live-websockets.mjs is examples/live-websockets.ts without its types', t => {
  const plain = transformSync(read('examples/jobs/live/live-websockets.mjs'), { loader: 'js' }).code
  t.is(plain, transformSync(read('examples/live-websockets.ts'), { loader: 'ts' }).code)
})

function lacking(text: string): string | undefined {
  const needed = NEEDS.exec(text)?.[1]?.split(' ') ?? []
  if (needed.includes('root') && process.getuid!() !== 0) return 'needs root'
  const absent = needed.filter(path => path !== 'root' && !existsSync(path))
  return absent.length === 0 ? undefined : `no ${absent.join(', ')}`
}
