import { compileTests } from './scripts/compile-tests.mjs'

await compileTests()

const { longestFirst, testFiles } = await import('./build/test/helpers/test-files.js')

export default {
  files: testFiles(),
  sortTestFiles: longestFirst,
  // What is required of a test's source is what it was compiled to: scripts/load-compiled.cjs
  extensions: { ts: 'commonjs' },
  require: ['./scripts/load-compiled.cjs'],
  workerThreads: false,
  // Without a result. Longer than the limit of one test: test/helpers/test.ts
  timeout: process.env.PASSFD_TEST_FULL === '1' ? '16m' : '4m',
  // Much of the time they wait for other processes
  concurrency: 5
}
