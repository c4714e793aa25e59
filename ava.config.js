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
  // Without a result; one test of a full run may take some minutes
  timeout: process.env.PASSFD_TEST_FULL === '1' ? '10m' : '2m',
  // Much of the time they wait for other processes
  concurrency: 4
}
