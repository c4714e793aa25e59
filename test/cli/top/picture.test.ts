import { stripVTControlCharacters } from 'node:util'
import fc from 'fast-check'
import picocolors from 'picocolors'
import stringWidth from 'string-width'
import { draw, drawOnce, type Happening, LOOKS, type Picture } from '../../../src/cli/top/picture.ts'
import { viewOf } from '../../../src/cli/top/view.ts'
import type { AdminWorker } from '../../../src/prefork/index.ts'
import { adminStatus, adminWorker } from '../../helpers/admin-status.ts'
import { test } from '../../helpers/test.ts'

const NONE = picocolors.createColors(false)
const ALL = picocolors.createColors(true)
/** 12:00:00 in whatever time zone this runs. */
const NOON = new Date(2026, 5, 1, 12).getTime()

/** After two samples, a second apart. */
function view(workers: (Partial<AdminWorker> & { perSecond?: number })[], more = {}) {
  const at = (second: number) => ({
    status: adminStatus(
      workers.map(({ perSecond = 0, ...worker }) =>
        adminWorker({ ...worker, requests: perSecond * second, cpu: 5 * perSecond * second })
      ),
      { since: NOON - 3_600_000, ...more }
    ),
    at: second * 1000,
    time: NOON + second * 1000
  })
  return viewOf(viewOf(undefined, at(0), 0), at(1), 0)
}

function picture(more: Partial<Picture> = {}): Picture {
  return { target: 'app', view: undefined, lost: undefined, happenings: [], message: undefined, looks: LOOKS, ...more }
}

const WORKERS = [
  { slot: 0, id: 1, pid: 4711, perSecond: 120, connections: 7, uptime: 3_590_000 },
  {
    slot: 1,
    id: 5,
    pid: 4799,
    perSecond: 3,
    lag: 230,
    uptime: 4000,
    restarts: 2,
    restartReason: 'it exited with code 1'
  },
  {
    slot: 2,
    id: 3,
    pid: 4713,
    state: 'stopping',
    uptime: 3_590_000,
    reason: 'it was beyond a limit: 100 of 90 bytes (limits.rss)'
  }
] as const
const HAPPENINGS: Happening[] = [
  { time: NOON - 5000, text: 'slot 1: process 4712 has ended: it exited with code 1', slot: 1 },
  { time: NOON - 4000, text: 'slot 1: process 4799 starts', slot: 1 },
  { time: NOON - 3000, text: 'reload: done in 1.0 s', slot: undefined }
]
const SIZE = { columns: 80, rows: 24 }

test('workers, listeners, totals and the last events in 80 × 24', t => {
  const lines = draw(
    picture({
      view: view([...WORKERS], { size: 4, draining: [{ pid: 3999, connections: 2 }] }),
      happenings: HAPPENINGS
    }),
    SIZE,
    NONE
  )
  t.is(lines.length, 24)
  t.is(lines.map(line => line.trimEnd()).join('\n'), OVERVIEW)
})

const OVERVIEW = `app  process 4000  running  up 1h 00m  2 of 4 ready                     12:00:01
123 requests/s  7 connections  CPU 61.5%  RSS 192M  2 restarts  process 3999 st…
http 127.0.0.1:3000
SLOT     PID STATE     UPTIME  CONN  REQ/S    LAG  CPU%    RSS RESTARTS
   0    4711 ready    59m 50s     7    120  0.4ms  60.0    64M 0
   1    4799 ready         4s     0      3  230ms   1.5    64M 2: it exited wit…
   2    4713 stopping 59m 50s     0      0  0.4ms   0.0    64M 0: it was beyond…
   3       – empty
EVENTS
11:59:55 slot 1: process 4712 has ended: it exited with code 1
11:59:56 slot 1: process 4799 starts
11:59:57 reload: done in 1.0 s











r reload  + - scale  s stop  ↑↓ enter or digits: one worker  q quit`

test('one worker in detail, with its own events', t => {
  const looks = { ...LOOKS, detail: 1, selected: 1 }
  const lines = draw(
    picture({ view: view([...WORKERS]), happenings: HAPPENINGS, looks }),
    { columns: 80, rows: 18 },
    NONE
  )
  t.is(lines.map(line => line.trimEnd()).join('\n'), DETAIL)
  const none = draw(picture({ view: view([...WORKERS]), looks: { ...looks, detail: 9 } }), SIZE, NONE)
  t.is(none[3], 'There is no slot 9.')
  const empty = draw(picture({ view: view([...WORKERS], { size: 4 }), looks: { ...looks, detail: 3 } }), SIZE, NONE)
  t.regex(empty[3]!, /^slot 3 is empty/)
})

test('an empty slot shows its restarts, and when its next worker starts', t => {
  const died = { restarts: 4, restartReason: 'it failed with Error: no database' }
  const slots = [
    { slot: 1, ...died, startsIn: 2400 },
    { slot: 2, ...died, startsIn: undefined }
  ]
  const crashing = view([WORKERS[0]], { size: 3, empty: slots })
  t.is(crashing.totals.restarts, 8)
  const lines = drawOnce(picture({ view: crashing }), 0, NONE)
  t.deepEqual(lines.slice(5), [
    '   1       – empty    next worker in 2s                        4: it failed with Error: no database',
    '   2       – empty                                             4: it failed with Error: no database'
  ])
  const detail = (slot: number) => draw(picture({ view: crashing, looks: { ...LOOKS, detail: slot } }), SIZE, NONE)
  t.is(detail(1)[3]!.trim(), 'slot 1 is empty: the next worker starts in 2s')
  t.is(detail(1)[4]!.trim(), 'restarts    4, the last: it failed with Error: no database')
  t.is(detail(2)[3]!.trim(), 'slot 2 is empty: no worker starts in it now')
})

const DETAIL = `app  process 4000  running  up 1h 00m  2 of 3 ready                     12:00:01
123 requests/s  7 connections  CPU 61.5%  RSS 192M  2 restarts
http 127.0.0.1:3000
slot 1  process 4799  worker 5
state       ready, for 4s since its start
connections 0
requests    3
requests/s  3                   ▁█
lag         230ms               ██
CPU         1.5%, 0s in all     ▁█
RSS         64M                 ██
restarts    2, the last: it exited with code 1

EVENTS
11:59:55 slot 1: process 4712 has ended: it exited with code 1
11:59:56 slot 1: process 4799 starts

esc back  ↑↓ another worker  r reload  + - scale  s stop  q quit`

test('listeners: a name that passfd has made of the address is left out', t => {
  const at = { family: 'IPv6', address: '::', port: 3000 }
  const listeners = { 'any port 1': at, http: at, 'udp4 53': at, '/run/x': { path: '/run/x' }, '3000': at }
  const shown = draw(picture({ view: view([...WORKERS], { listeners }) }), { columns: 120, rows: 24 }, NONE)[2]
  t.is(shown, '[::]:3000  [::]:3000  http [::]:3000  udp4 [::]:3000  /run/x')
})

test('workers that do not report have dashes instead of zeros', t => {
  const lines = draw(picture({ view: view([...WORKERS], { foreign: true }) }), SIZE, NONE)
  t.regex(lines[1]!, /^CPU 61\.5% {2}RSS/)
  t.regex(lines[4]!, /^ {3}0 {4}4711 ready {4}59m 50s {5}– {6}– {6}– {2}60\.0 /)
  const detail = draw(
    picture({ view: view([...WORKERS], { foreign: true }), looks: { ...LOOKS, detail: 0 } }),
    SIZE,
    NONE
  )
  t.true(detail.some(line => line.startsWith('served      unknown')))
})

test('the last line: keys, a question, digits, a message', t => {
  const last = (more: Partial<Picture>) => draw(picture({ view: view([...WORKERS]), ...more }), SIZE, NONE).at(-1)
  t.regex(last({})!, /^r reload/)
  t.is(last({ looks: { ...LOOKS, asks: true } }), 'Stop process 4000 and its 3 workers? y: yes, any other key: no')
  t.regex(last({ looks: { ...LOOKS, typed: '1' } })!, /^slot 1_/)
  t.is(last({ message: 'reload: failed: \x1b[2Jno' }), 'reload: failed: no')
  t.is(last({ lost: { time: NOON, reason: 'no server is there' } }), 'q quit')
})

test('while nobody answers it says so, since when and why, and what is old is dim', t => {
  const lost = { time: NOON, reason: 'the server has ended' }
  t.is(
    draw(picture({ lost }), SIZE, NONE)[0],
    'Nobody answers since 12:00:00: the server has ended. Waiting for a server.'
  )
  const lines = draw(picture({ lost, view: view([...WORKERS]) }), SIZE, ALL)
  t.true(stripVTControlCharacters(lines[0]!).includes('  gone  '))
  t.true(stripVTControlCharacters(lines[3]!).startsWith('Nobody answers since'))
  for (const line of lines.slice(4, 8)) t.true(line.startsWith('\x1b[2m'), line)
})

test('more workers than fit: the table shows those around the cursor', t => {
  const workers = Array.from({ length: 40 }, (_, slot) => ({ slot, id: slot + 1 }))
  const slots = (selected: number) => {
    const looks = { ...LOOKS, selected }
    const lines = draw(picture({ view: view(workers), looks, happenings: HAPPENINGS }), SIZE, ALL)
    t.is(lines.filter(line => line.includes('\x1b[7m')).length, 1, 'the cursor')
    const plain = lines.map(stripVTControlCharacters)
    const events = plain.findIndex(line => line.startsWith('EVENTS'))
    t.true(plain.includes('11:59:57 reload: done in 1.0 s'), 'events keep some room')
    return [Number(plain[4]!.slice(0, 4)), Number(plain[events - 1]!.slice(0, 4)), plain[events]!.slice(-18)]
  }
  t.deepEqual(slots(0), [0, 11, '  rows 1 to 12 of 40'.slice(-18)])
  t.deepEqual(slots(20), [14, 25, 'rows 15 to 26 of 40'.slice(-18)])
  t.deepEqual(slots(39), [28, 39, 'rows 29 to 40 of 40'.slice(-18)])
})

test('one picture: as long as it is, and as wide outside a terminal', t => {
  const lines = drawOnce(picture({ view: view([...WORKERS]) }), 0, NONE)
  t.is(lines.length, 7)
  t.true(lines[6]!.endsWith('0: it was beyond a limit: 100 of 90 bytes (limits.rss)'))
  t.true(drawOnce(picture({ view: view([...WORKERS]) }), 80, NONE).every(line => stringWidth(line) <= 80))
})

const TEXT = fc.oneof(fc.constant(undefined), fc.string(), fc.constant('\x1b[31m漢字 \n\r\x9b2J'))

test('whatever it shows: never more lines than fit, never wider ones, and nothing that moves a cursor', t => {
  const size = fc.record({ columns: fc.integer({ min: 1, max: 200 }), rows: fc.integer({ min: 0, max: 60 }) })
  const worker = fc.record({
    slot: fc.integer({ min: 0, max: 30 }),
    id: fc.integer({ min: 1, max: 1e6 }),
    state: fc.constantFrom('starting', 'ready', 'stopping', 'hung', 'exited') as fc.Arbitrary<AdminWorker['state']>,
    pid: fc.option(fc.integer({ min: 1, max: 2 ** 22 }), { nil: undefined }),
    connections: fc.nat(),
    lag: fc.float({ min: 0, max: 1e6, noNaN: true }),
    rss: fc.nat(),
    restarts: fc.nat(),
    reason: TEXT,
    restartReason: TEXT
  })
  const looks = fc.record({
    selected: fc.integer({ min: 0, max: 40 }),
    detail: fc.option(fc.integer({ min: 0, max: 40 }), { nil: undefined }),
    typed: fc.constantFrom('', '1'),
    asks: fc.boolean()
  })
  const happening = fc.record({
    time: fc.constant(NOON),
    text: fc.string(),
    slot: fc.option(fc.nat(30), { nil: undefined })
  })
  fc.assert(
    fc.property(
      fc.option(fc.tuple(fc.array(worker, { maxLength: 40 }), fc.boolean()), { nil: undefined }),
      size,
      looks,
      fc.array(happening),
      TEXT,
      fc.option(fc.record({ time: fc.constant(NOON), reason: fc.string() }), { nil: undefined }),
      (shown, size, looks, happenings, message, lost) => {
        const one = picture({
          looks,
          happenings,
          message,
          lost,
          view: shown && view(shown[0], { foreign: shown[1], size: 30 })
        })
        const lines = draw(one, size, ALL)
        t.is(lines.length, size.rows)
        for (const line of lines) {
          t.true(stringWidth(line) <= size.columns, `${JSON.stringify(line)} in ${size.columns}`)
          t.notRegex(line.replace(/\x1b\[[\d;]*m/g, ''), /[\x00-\x1f\x7f-\x9f]/)
        }
      }
    ),
    { numRuns: 60 }
  )
})
