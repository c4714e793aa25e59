/**
 * Bundles programs with passfd in them by each bundler, and runs them where there is no node_modules: docs/bundling.md has the same settings. With
 * PASSFD_TEST_FULL=1 in each format, and all that passfd does there, and as a single executable application. It ends with "N passed, N failed".
 */
import { execFileSync } from 'node:child_process'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { arch, env, execPath, platform } from 'node:process'
import { fileURLToPath } from 'node:url'
import { pack } from '../../helpers/pack.mjs'
import { check, chosen, equal, finish, folder, matches, output, start } from '../checks.mjs'

const full = env.PASSFD_TEST_FULL === '1'
const programs = fileURLToPath(new URL('programs', import.meta.url))
const root = fileURLToPath(new URL('../../..', import.meta.url))
const modules = fileURLToPath(new URL('node_modules', import.meta.url))
/** A normal run has only what differs by the bundler: which file the code is in, and how it is loaded. */
const names = ['receiver', 'sender', 'program', ...(full ? ['supervisor', 'worker', 'seat'] : [])]

/** Of all doors. */
const PASSFD = /^passfd(\/|$)/

/** Each writes one file for each program. */
const BUNDLERS = {
  async esbuild(project, outdir, format, external) {
    const { build } = await import('esbuild')
    await build({
      absWorkingDir: project,
      entryPoints: inputs(project),
      outdir,
      format,
      outExtension: { '.js': extension(format) },
      bundle: true,
      platform: 'node',
      target: 'node20',
      external: external ? ['passfd'] : [],
      logLevel: 'warning'
    })
  },
  async rollup(project, dir, format, external) {
    const { rollup } = await import('rollup')
    const { default: resolve } = await import('@rollup/plugin-node-resolve')
    const warned = []
    const options = {
      input: Object.fromEntries(names.map(name => [name, join(project, `${name}.mjs`)])),
      plugins: [resolve({ preferBuiltins: true })],
      ...(external ? { external: PASSFD } : {}),
      onLog: (_level, { message }) => warned.push(message)
    }
    const bundle = await rollup(options)
    await bundle.write({ dir, format, entryFileNames: `[name]${extension(format)}` })
    equal(warned.join('\n'), '')
  },
  async webpack(project, path, format, external) {
    const { default: webpack } = await import('webpack')
    const isModule = format === 'esm'
    const stats = await new Promise((resolve, reject) => {
      const options = {
        context: project,
        mode: 'production',
        target: 'node20',
        entry: Object.fromEntries(names.map(name => [name, `./${name}.mjs`])),
        output: { path, filename: `[name]${extension(format)}`, module: isModule },
        experiments: { outputModule: isModule },
        optimization: { minimize: full },
        ...(external ? { externals: [PASSFD], externalsType: 'import' } : {})
      }
      webpack(options, (error, stats) => (error ? reject(error) : resolve(stats)))
    })
    const { errors, warnings } = stats.toJson()
    equal(JSON.stringify([...errors, ...warnings].map(({ message }) => message)), '[]')
  },
  async vite(project, outDir, format, external) {
    const { build } = await import('vite')
    await build({
      root: project,
      configFile: false,
      logLevel: 'warn',
      ...(external ? {} : { ssr: { noExternal: ['passfd'] } }),
      build: {
        ssr: true,
        outDir,
        emptyOutDir: true,
        rollupOptions: {
          input: inputs(project),
          output: { format, entryFileNames: `[name]${extension(format)}` }
        }
      }
    })
  }
}
const bundlers = Object.keys(BUNDLERS)
const all = [...bundlers, 'executable']
const wanted = chosen(all, full ? all : bundlers)

const { tarball } = await pack(folder('packed'), full)
for (const bundler of wanted.filter(name => name in BUNDLERS))
  for (const format of full ? ['esm', 'cjs'] : ['esm']) {
    const name = `${bundler}, ${format === 'esm' ? 'ES modules' : 'CommonJS'}`
    const { project, out } = newProject(bundler)
    const made = await check(`${name}: bundles without a warning`, () =>
      BUNDLERS[bundler](project, join(project, 'out'), format)
    )
    if (!made) continue
    fs.cpSync(join(project, 'out'), out, { recursive: true })
    await check(`${name}: without the native part an error says what to do`, async () => {
      const { code, stderr } = await start([execPath, `sender${extension(format)}`], { cwd: out }).ended
      equal(code, 1)
      matches(stderr, /ERR_PASSFD_NATIVE_BUNDLED/)
      matches(stderr, /cp -r node_modules\/passfd\/prebuilds/)
    })
    fs.cpSync(join(project, 'node_modules/passfd/prebuilds'), join(out, 'prebuilds'), { recursive: true })
    // What a bundle still refers to there is not there where it runs
    fs.rmSync(project, { recursive: true })
    const command = program => [execPath, `${program}${extension(format)}`]
    await tryPrograms(name, command, out)
    if (full) await tryExternal(bundler, format, name)
  }
if (wanted.includes('executable')) await tryExecutable()
finish()

/** The bundles import passfd from node_modules, where everything works. */
async function tryExternal(bundler, format, name) {
  const { project } = newProject(bundler)
  const out = join(project, 'out')
  const made = await check(`${name}, passfd left out: bundles without a warning`, async () => {
    await BUNDLERS[bundler](project, out, format, true)
    const sender = fs.readFileSync(join(out, `sender${extension(format)}`), 'utf8')
    if (sender.length > 20_000) throw new Error('passfd is in it')
    for (const name of ['bindings', 'file-uri-to-path', '@standard-schema/spec'])
      fs.cpSync(join(root, 'node_modules', name), join(project, 'node_modules', name), { recursive: true })
  })
  if (!made) return
  await check(`${name}, passfd left out: a program is served`, async () => {
    const { stdout } = await output([execPath, `program${extension(format)}`], { cwd: out })
    equal(stdout, 'served at 1\n')
  })
  await check(`${name}, passfd left out: a descriptor`, async () => {
    const command = program => [execPath, `${program}${extension(format)}`]
    const receiver = start(command('receiver'), { cwd: out })
    await receiver.said(/waiting/)
    equal((await output(command('sender'), { cwd: out })).stdout, 'a letter true\n')
    await receiver.ended
  })
}

/** The bundles work as the programs do. */
async function tryPrograms(name, command, cwd) {
  await check(`${name}: a descriptor goes from one process to another`, async () => {
    const receiver = start(command('receiver'), { cwd })
    await receiver.said(/waiting/)
    const { stdout, stderr } = await output(command('sender'), { cwd })
    equal(stdout, 'a letter true\n')
    equal(stderr, '')
    equal((await receiver.ended).code, 0)
  })
  await check(`${name}: a program's preload is missing, and it says so`, async () => {
    const { stdout } = await output(command('program'), { cwd })
    matches(stdout, /^ERR_PASSFD_PRELOAD_MISSING .*Mark passfd as external/)
  })
  if (!full) return
  await check(`${name}: a supervisor and its workers`, async () => {
    const supervisor = start(command('supervisor'), { cwd })
    const [, port] = await supervisor.said(/port (\d+)/)
    for (let n = 0; n < 10; n++) matches(await (await fetch(`http://127.0.0.1:${port}`)).text(), /^worker \d+$/)
    await supervisor.said(/ERR_PASSFD_METRICS_MISSING/)
    supervisor.child.kill('SIGTERM')
    equal((await supervisor.ended).code, 0)
  })
  await check(`${name}: a takeover`, async () => {
    const first = start(command('seat'), { cwd })
    const [, port] = await first.said(/serves (\d+) after undefined/)
    const second = start(command('seat'), { cwd })
    await second.said(new RegExp(`serves ${port} after ${first.child.pid}`))
    equal((await first.ended).code, 0)
    equal(await (await fetch(`http://127.0.0.1:${port}`)).text(), `seat ${second.child.pid}`)
    second.child.kill('SIGTERM')
    equal((await second.ended).code, 0)
  })
}

/** Node's single executable applications: the native part is an asset in the file, or beside it. */
async function tryExecutable() {
  const { project } = newProject('executable')
  const { build } = await import('esbuild')
  await build({
    absWorkingDir: project,
    entryPoints: ['executable.mjs'],
    outfile: join(project, 'bundle.cjs'),
    bundle: true,
    platform: 'node',
    logLevel: 'warning'
  })
  const libc = process.report.getReport().header.glibcVersionRuntime === undefined ? 'musl' : 'glibc'
  for (const [name, assets] of [
    ['with an asset', { 'passfd.node': `node_modules/passfd/prebuilds/${platform}-${arch}-${libc}/passfd.node` }],
    ['with prebuilds beside it', undefined]
  ]) {
    const out = folder('executable')
    const path = join(out, 'app')
    const made = await check(`a single executable application ${name}: is made`, async () => {
      const config = { main: 'bundle.cjs', output: 'app.blob', disableExperimentalSEAWarning: true, assets }
      fs.writeFileSync(join(project, 'sea-config.json'), JSON.stringify(config))
      await output([execPath, '--experimental-sea-config', 'sea-config.json'], { cwd: project })
      fs.copyFileSync(execPath, path)
      const fuse = ['--sentinel-fuse', 'NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2']
      const postject = join(modules, 'postject/dist/cli.js')
      await output([execPath, postject, path, 'NODE_SEA_BLOB', 'app.blob', ...fuse], { cwd: project })
      if (assets === undefined)
        fs.cpSync(join(project, 'node_modules/passfd/prebuilds'), join(out, 'prebuilds'), { recursive: true })
    })
    if (!made) continue
    await check(`a single executable application ${name}: descriptors, a supervisor and its workers`, async () => {
      const left = fs.readdirSync(tmpdir())
      const app = start([path], { cwd: out })
      const [, port] = await app.said(/port (\d+)/)
      matches(app.words(), /^file\nERR_PASSFD_ENTRY_EXECUTABLE .*\/worker\.mjs\. Set spawn\.args/)
      for (let n = 0; n < 10; n++) matches(await (await fetch(`http://127.0.0.1:${port}`)).text(), /^worker \d+$/)
      app.child.kill('SIGTERM')
      const { code, stderr } = await app.ended
      equal(`${code} ${stderr}`, '0 ')
      const mine = fs.readdirSync(tmpdir()).filter(name => /^passfd-\w{6}$/.test(name) && !left.includes(name))
      equal(mine.join(), '')
    })
  }
}

/** A project with passfd as an installer lays it out, and the folder in which its bundles will run. */
function newProject(name) {
  const project = folder(`project-${name}`)
  const passfd = join(project, 'node_modules/passfd')
  fs.mkdirSync(passfd, { recursive: true })
  execFileSync('tar', ['-xzf', tarball, '--strip-components=1', '-C', passfd])
  fs.writeFileSync(join(project, 'package.json'), JSON.stringify({ name: 'project', private: true }))
  fs.cpSync(programs, project, { recursive: true })
  return { project, out: folder(`bundles-${name}`) }
}

function inputs(project) {
  return names.map(name => join(project, `${name}.mjs`))
}

function extension(format) {
  return format === 'esm' ? '.mjs' : '.cjs'
}
