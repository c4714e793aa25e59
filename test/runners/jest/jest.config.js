export default {
  testEnvironment: 'node',
  testMatch: ['**/*.test.{js,cjs}'],
  transform: {},
  testTimeout: 60_000,
  globalSetup: './setup.js',
  globalTeardown: './teardown.js',
  // Covered code is run with an inspector, and instrumented where a transform does it
  collectCoverage: true,
  coverageProvider: 'v8',
  coverageReporters: ['none']
}
