import { defineConfig } from 'vitest/config'

// One file after the other in one worker, so that each pool evaluates passfd again where it can
export default defineConfig({
  test: {
    include: ['*.test.js'],
    globalSetup: './setup.js',
    fileParallelism: false,
    maxWorkers: 1,
    testTimeout: 60_000,
    isolate: process.env.ISOLATE !== 'no',
    server: { deps: { inline: process.env.INLINE === 'yes' ? ['passfd'] : [] } },
    coverage: { enabled: process.env.COVERAGE === 'yes', provider: 'v8', reporter: [] }
  }
})
