import { compileTests } from './scripts/compile-tests.mjs'

await compileTests()

const { testFiles } = await import('./build/test/helpers/test-files.js')

export default {
  files: testFiles(),
  // What is required of a test's source is what it was compiled to: scripts/load-compiled.cjs
  extensions: { ts: 'commonjs' },
  require: ['./scripts/load-compiled.cjs'],
  workerThreads: false,
  timeout: '2m',
  concurrency: 2
}
