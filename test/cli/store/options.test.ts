import { readFileSync, writeFileSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { CommandError } from '../../../src/cli/exit.ts'
import { explained, settingsOf } from '../../../src/cli/store/options.ts'
import { openStore } from '../../../src/store/index.ts'
import { socketPath, temporaryPath } from '../../helpers/path.ts'
import { storeCommand } from '../../helpers/store-cli.ts'
import { test } from '../../helpers/test.ts'

function file(contents: unknown, ending = 'json'): string {
  const path = `${temporaryPath('store')}.${ending}`
  writeFileSync(path, typeof contents === 'string' ? contents : JSON.stringify(contents))
  return path
}

test('the command line wins over the configuration, whose paths begin at its folder', async t => {
  const rules = [{ user: '*', read: true }]
  const config = file({
    socket: 'here.socket',
    mode: '0660',
    group: 4711,
    rules,
    total: { names: 5, bytes: '2M' },
    quota: { bytes: '1K' },
    quotas: { root: { bytes: '1.5K' }, 4711: { names: 1 } },
    maxConnections: 10
  })
  t.deepEqual(await settingsOf({ config, mode: 0o600, maxDescriptors: 7, maxNames: 6 }, '/'), {
    socket: `${dirname(config)}/here.socket`,
    file: { mode: 0o600, group: 4711 },
    options: {
      rules,
      total: { names: 6, bytes: 2_097_152, descriptors: 7 },
      quota: { bytes: 1024 },
      quotas: { root: { bytes: 1536 }, 4711: { names: 1 } },
      maxConnections: 10
    },
    config: basename(config),
    flags: ['mode']
  })
  t.deepEqual(await settingsOf({}, '/'), {
    socket: undefined,
    file: {},
    options: { total: {} },
    config: undefined,
    flags: []
  })
  t.like(await settingsOf({ config: file('export default { maxConnections: 3 }', 'mjs') }, '/'), {
    options: { maxConnections: 3 }
  })
})

test('a wrong configuration: the place, what is expected, and exit code 78', async t => {
  for (const [contents, what] of [
    ['{', /^\/.*json can't be loaded: /],
    [[], /^\S+\.json must be an object/],
    [{ quotes: {} }, /^\S+\.json has the unknown option 'quotes': did you mean 'quotas'\?$/],
    [{ takeover: true }, /unknown option 'takeover'/],
    [{ mode: 660 }, /^mode in \S+\.json must be a text with an octal number, such as "0660"; it is 660$/],
    [{ total: 5 }, /^total in \S+\.json must be an object with descriptors, names or bytes; it is 5$/],
    [{ total: { bytes: '5' } }, /^total\.bytes in \S+\.json must be a size with its unit/],
    [{ quotas: { root: { bytes: 'x' } } }, /^quotas\.root\.bytes in \S+\.json must be a size/],
    [{ rules: [{ user: 0 }, { user: '*', raed: true }] }, /^In \S+\.json rules\[1\] has the unknown option 'raed'/],
    [{ rules: [{ user: 'nobody-of-this-name' }] }, /^In \S+\.json rules\[0\]\.user must be the name of a user/],
    [{ quota: { names: -1 } }, /^In \S+\.json quota\.names must be/],
    [{ maxConnections: 'many' }, /^In \S+\.json maxConnections must be/],
    [{ group: 'no-group-of-this-name' }, /^In \S+\.json group must be the name of a group/]
  ] as const) {
    const error = await t.throwsAsync<CommandError>(async () => {
      const settings = await settingsOf({ config: file(contents) }, '/')
      try {
        await using _ = await openStore({ path: socketPath(), ...settings.file }, settings.options)
      } catch (error) {
        throw explained(error, settings)
      }
    })
    t.true(error instanceof CommandError, String(error))
    t.is(error.exitCode, 78, error.message)
    t.regex(error.message, what)
  }
  t.like(await t.throwsAsync(settingsOf({ config: '/no/such.json' }, '/')), { exitCode: 66 })
})

test('the configuration in docs/store.md', async t => {
  const text = readFileSync(new URL('../../../docs/store.md', import.meta.url), 'utf8')
  const [, block] = /^```\n(\{.*?^\}\n)```/ms.exec(text)!
  // Two users that this machine need not have
  const settings = await settingsOf(
    { config: file(block!.replaceAll('deploy', 'root').replace('www-data', 'root')) },
    '/'
  )
  await using store = await openStore(socketPath(), settings.options)
  t.is(store.status.names, 0)
  t.is(settings.file.mode, 0o666)
  const [, names] = /^Its names are (.*)\. The command line wins\./m.exec(text)!
  for (const [, name] of names!.matchAll(/`(\w+)`/g))
    await t.notThrowsAsync(settingsOf({ config: file({ [name!]: null }) }, '/'), name)
})

test('a wrong command line', async t => {
  for (const [args, what] of [
    [['--mode', '9'], /octal number/],
    [['--max-names', '-1'], /an integer from 0/],
    [['--max-bytes', '5'], /a size with its unit/],
    [['--owner', 'nobody-of-this-name'], /^passfd: --owner must be the name of a user in \/etc\/passwd/],
    [['--group', 'no-group-of-this-name'], /^passfd: --group must be/]
  ] as const) {
    const { code, err } = await storeCommand(['--socket', socketPath(), ...args])
    t.is(code, 64, err)
    t.regex(err, what)
  }
})
