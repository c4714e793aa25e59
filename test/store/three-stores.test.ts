/** The table "Three stores" of docs/store.md: each of the three shows what its cells say. */
// A process of its own: it starts service managers
import { readFileSync } from 'node:fs'
import { withoutFdHolder } from '../helpers/s6.ts'
import { managed } from '../helpers/systemd.ts'
import { test, testIf } from '../helpers/test.ts'
import { LINES } from './three-stores/lines.ts'
import { cases as passfd } from './three-stores/passfd.ts'
import { cases as s6 } from './three-stores/s6.ts'
import { cases as systemd } from './three-stores/systemd.ts'

test('each line of the table has a case for each store, and says what the case shows', t => {
  const text = readFileSync(new URL('../../docs/store.md', import.meta.url), 'utf8')
  const section = text.slice(text.indexOf('\n## Three stores\n')).split('\n## ')[1]!
  const [heading, , ...lines] = [...section.matchAll(/^\|(.*)\|$/gm)].map(([, cells]) =>
    cells!.split('|').map(cell => cell.trim())
  )
  t.deepEqual(heading, ['', 'passfd store', 'systemd `FDSTORE`', 's6-fdholder'])
  t.deepEqual(
    lines,
    LINES.map(line => [line, passfd[line].says, systemd[line].says, s6[line].says])
  )
})

for (const line of LINES) {
  test(`${line}: passfd: ${passfd[line].says}`, passfd[line].shows)
  managed(`${line}: systemd: ${systemd[line].says}`, systemd[line].shows)
  testIf(withoutFdHolder, `${line}: s6: ${s6[line].says}`, s6[line].shows)
}
