import { compileTests } from './scripts/compile-tests.mjs'

await compileTests()

export default {
  files: ['test/**/*.test.ts'],
  // What is required of a test's source is what it was compiled to: scripts/load-compiled.cjs
  extensions: { ts: 'commonjs' },
  require: ['./scripts/load-compiled.cjs'],
  workerThreads: false,
  timeout: '2m',
  concurrency: 2
}
