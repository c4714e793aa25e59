export default {
  testEnvironment: 'node',
  transform: {},
  globalSetup: './setup.js',
  globalTeardown: './teardown.js'
}
