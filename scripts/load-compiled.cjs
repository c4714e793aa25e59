/** ava loads test/NAME.test.ts by require(): gives it the promise of what scripts/compile-tests.mjs has made of that, a module. */
const { join, relative } = require('node:path')
const { pathToFileURL } = require('node:url')

const root = join(__dirname, '..')

require.extensions['.ts'] = (module, path) => {
  module.exports = import(pathToFileURL(join(root, 'build', relative(root, path).replace(/ts$/, 'js'))).href)
}
