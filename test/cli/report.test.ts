import { writeReport } from '../../src/cli/report.ts'
import type { Ui } from '../../src/cli/ui.ts'
import { test } from '../helpers/test.ts'

/** What a worker may say of its exception, for example. */
const HOSTILE = 'it failed with \x1b]0;title\x07: \x1b[2J\npassfd: all is well\r\u202e\x9b5n'

function noted(json: boolean): string {
  const lines: string[] = []
  const same = (text: string): string => text
  const ui = { note: (text: string) => void lines.push(text), err: { red: same, yellow: same } } as unknown as Ui
  const facts = { reason: HOSTILE }
  writeReport(ui, { event: 'exit', level: 'warning', text: HOSTILE, facts }, json)
  return lines.join('\n')
}

test('a report commands no terminal, and a text of several lines begins no other report', t => {
  const text = noted(false)
  t.notRegex(text.replaceAll('\n', ''), /[\p{Cc}\u202e]/u)
  t.deepEqual(
    text.split('\n').map(line => line.slice(0, 9)),
    ['passfd: i', '  passfd:']
  )
  const record = noted(true)
  t.notRegex(record, /[\p{Cc}\u202e]/u)
  t.is(JSON.parse(record).reason, HOSTILE)
})
