import { withWatchFolders } from '../../../src/cli/serve/watch-folders.ts'
import { test } from '../../helpers/test.ts'

const read = (line: string): string =>
  withWatchFolders(line.split(' '), { isFolder: word => ['src', 'lib', '.'].includes(word) }).join(' ')

test('folders behind --watch are its own, if a program follows', t => {
  t.is(read('--watch src lib server.js'), '--watch=src --watch=lib server.js')
  t.is(read('--watch server.js'), '--watch= server.js')
  t.is(read('--watch .'), '--watch= .')
  t.is(read('--watch src .'), '--watch=src .')
  t.is(read('--watch src -w 2 server.js'), '--watch=src -w 2 server.js')
  t.is(read('-w 2 --watch -- npm start'), '-w 2 --watch= -- npm start')
  t.is(read('--watch'), '--watch=')
})

test('what stands behind the program is the program’s', t => {
  t.is(read('server.js --watch src x'), 'server.js --watch src x')
  t.is(read('--import tsx server.ts --watch'), '--import tsx server.ts --watch')
  t.is(read('-r src --watch lib x.js'), '-r src --watch=lib x.js')
  t.is(read('--max-rss=1G --watch server.js --watch'), '--max-rss=1G --watch= server.js --watch')
  t.is(read('-- --watch src x'), '-- --watch src x')
})
