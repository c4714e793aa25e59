// In CI only: it reads all declarations, which takes some seconds.
/** The report of the public surface is that of these sources. */
import { execFile } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { errorCodes } from '../src/base/errors.ts'
import { temporaryPath } from './helpers/path.ts'
import { testInCi } from './helpers/test.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const report = readFileSync(new URL('../api/passfd.api.md', import.meta.url), 'utf8')
const check = (...file: string[]): Promise<unknown> =>
  promisify(execFile)(process.execPath, ['--import', 'tsx', 'scripts/api.mjs', '--check', ...file], { cwd: root })

testInCi('api/passfd.api.md is the public surface', async t => {
  await t.notThrowsAsync(check(), 'run "npm run api"')
})

testInCi('a change of the public surface is shown as a difference', async t => {
  const changed = temporaryPath('changed.api.md')
  writeFileSync(changed, report.replace('send(value: Out): Promise<void>;', 'send(value: Out): void;'))
  const { stderr } = await t.throwsAsync<any>(check(changed), { code: 1 } as any)
  t.regex(stderr, /^-\s+send\(value: Out\): void;\n\+\s+send\(value: Out\): Promise<void>;$/m)
  t.regex(stderr, /The public surface has changed\. Run "npm run api"/)
})

testInCi('it has the doors, the codes, the command and the channels', t => {
  for (const door of ['passfd', 'datagram', 'memory', 'prefork', 'stream', 'takeover'])
    t.true(report.includes(`declare namespace ${door} {`), door)
  for (const code of errorCodes) t.true(report.includes(`\n${code}\n`), code)
  t.regex(report, /^passfd serve \[program\] \[args\.\.\.\]$/m)
  t.regex(report, /^ {2}-w, --workers <n\|max>/m)
  t.regex(report, /^tracing:passfd:request:/m)
  t.regex(report, /^passfd_worker_requests_total\{slot,id,pid\}: counter$/m)
  const metrics = readFileSync(new URL('../src/prefork/supervisor/metrics.ts', import.meta.url), 'utf8')
  const reported = new Set([...report.matchAll(/^passfd_(\w+).*: (?:gauge|counter)$/gm)].map(([, name]) => name))
  // add('Gauge', 'passfd_workers', …), ofWorkers('Gauge', 'rss_bytes', …)
  const made = [...metrics.matchAll(/(?:add|ofWorkers)\(\s*'(?:Gauge|Counter)',\s*'(passfd_)?(\w+)'/g)]
  t.deepEqual([...reported].sort(), made.map(([, own, name]) => (own ? name : `worker_${name}`)).sort())
})

testInCi('docs/stability.md names each variable of the environment, and docs/observability.md each channel', t => {
  const section = (title: string): string[] =>
    new RegExp(`^## ${title}\\n\\n\`\`\`\\n([^\`]+)\\n\`\`\``, 'm').exec(report)![1]!.split('\n')
  const page = (name: string): string => readFileSync(new URL(`../docs/${name}.md`, import.meta.url), 'utf8')
  const variables = section('Variables of the environment')
  t.true(variables.length > 5)
  for (const name of variables) t.true(page('stability').includes(`\`${name}\``), name)
  const channels = section('Diagnostics channels')
  t.true(channels.length > 5)
  for (const name of channels) t.true(page('observability').includes(name.replace(/\{.*/, '')), name)
})
