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
  // Node 22 and later read that file on a thread at their start, so it may be open when a test counts descriptors
  environmentVariables: Number.parseInt(process.versions.node, 10) < 22 ? {} : { NODE_EXTRA_CA_CERTS: '' },
  // Without a result. Longer than the limit of one test: test/helpers/test.ts
  timeout: process.env.PASSFD_TEST_FULL === '1' ? '16m' : '4m',
  // Much of the time they wait for other processes
  concurrency: 5
}
