/** The picture of `passfd top`: lines of text, at most as many and as long as the terminal has room for. Pure. */
import cliTruncate from 'cli-truncate'
import picocolors from 'picocolors'
import stringWidth from 'string-width'
import type { Colors } from '../ui.ts'
import { address, amount, bars, bytes, clock, delay, duration, plain } from './text.ts'
import type { Row, View } from './view.ts'

export interface Size {
  columns: number
  rows: number
}

export interface Happening {
  /** In ms since 1970. */
  time: number
  text: string
  slot: number | undefined
}

/** What the keys have made of it. */
export interface Looks {
  /** The slot that the cursor is on. */
  selected: number
  /** The slot that is shown alone. */
  detail: number | undefined
  /** The digits of a slot's number, as far as they are typed. */
  typed: string
  /** It asks whether to stop the supervisor. */
  asks: boolean
}

export interface Picture {
  /** The NAME or socket of the supervisor. */
  target: string
  /** Undefined: none has answered yet. */
  view: View | undefined
  /** Why nobody answers, and since when. */
  lost: { time: number; reason: string } | undefined
  /** The newest last. */
  happenings: readonly Happening[]
  /** A command that is under way, or its outcome. */
  message: string | undefined
  looks: Looks
}

export const LOOKS: Looks = { selected: 0, detail: undefined, typed: '', asks: false }

const KEYS = 'r reload  + - scale  s stop  ↑↓ enter or digits: one worker  q quit'
const KEYS_OF_DETAIL = 'esc back  ↑↓ another worker  r reload  + - scale  s stop  q quit'
/** What is not known. */
const UNKNOWN = '–'
/** From this delay of an event loop on, in ms, requests wait noticeably. */
const LATE = 100
const VERY_LATE = 1000

export function draw(picture: Picture, { columns, rows }: Size, colors: Colors): string[] {
  const footer = footerOf(picture, colors)
  const room = Math.max(0, rows - 1)
  const head = headOf(picture, columns, colors)
  // What is known of workers while nobody answers is old
  const isOld = picture.lost !== undefined
  const lines = picture.view && bodyOf(picture, picture.view, room - head.length, columns, isOld ? PLAIN : colors)
  const body = (lines ?? []).map(line => (isOld ? colors.dim(line) : line))
  const above = [...head, ...body].slice(0, room)
  const all = rows === 0 ? [] : [...above, ...Array(room - above.length).fill(''), footer]
  return all.map(line => cut(line, columns))
}

function bodyOf(picture: Picture, view: View, room: number, columns: number, colors: Colors): string[] {
  return picture.looks.detail === undefined
    ? tableAndEvents(picture, view, room, columns, colors)
    : detailOf(picture, view, picture.looks.detail, room, columns, colors)
}

/** The same without what only a terminal with keys needs, and as long as it is. */
export function drawOnce(picture: Picture, columns: number, colors: Colors): string[] {
  const { view } = picture
  const lines = headOf(picture, columns, colors)
  if (view !== undefined) lines.push(...table(view, view.rows, undefined, colors))
  return lines.map(line => (columns === 0 ? line : cut(line, columns)).trimEnd())
}

/** Cuts a line that is too long. */
function cut(line: string, columns: number): string {
  const short = cliTruncate(line, columns)
  // A character of two cells may be cut behind its first one
  return stringWidth(short) > columns ? cliTruncate(line, columns - 1) : short
}

function footerOf({ message, looks, lost, view }: Picture, colors: Colors): string {
  const { asks, typed, detail } = looks
  if (asks) {
    const workers = count(view?.sample.status.workers.length ?? 0, 'worker')
    return colors.bold(`Stop process ${view?.sample.status.pid} and its ${workers}? y: yes, any other key: no`)
  }
  if (typed !== '') return colors.bold(`slot ${typed}_  enter: show it, esc: don't`)
  if (message !== undefined) return colors.bold(plain(message))
  if (lost !== undefined) return 'q quit'
  return colors.dim(detail === undefined ? KEYS : KEYS_OF_DETAIL)
}

// --- the head

function headOf({ target, view, lost }: Picture, columns: number, colors: Colors): string[] {
  const lines: string[] = []
  if (view !== undefined) {
    const { status, time } = view.sample
    const { pid, since, phase, size, listeners, draining } = status
    const { ready, requests, connections, cpu, rss, restarts } = view.totals
    const left = [
      colors.bold(target),
      `process ${pid}`,
      lost !== undefined ? colors.red('gone') : phase === 'running' ? phase : colors.yellow(phase),
      `up ${duration(time - since)}`,
      ready === size ? `${ready} of ${size} ready` : colors.yellow(`${ready} of ${size} ready`)
    ].join('  ')
    lines.push(ends(left, clock(time), columns))
    const serves = status.foreign
      ? []
      : [`${requests === undefined ? UNKNOWN : amount(requests)} requests/s`, count(connections, 'connection')]
    lines.push(
      [
        ...serves,
        `CPU ${cpu === undefined ? UNKNOWN : `${cpu.toFixed(1)}%`}`,
        `RSS ${bytes(rss)}`,
        restarts === 0 ? 'no restarts' : colors.yellow(count(restarts, 'restart')),
        ...draining.map(({ pid, connections }) => `process ${pid} still has ${count(connections, 'connection')}`)
      ].join('  ')
    )
    const addresses = Object.entries(listeners).map(([name, where]) => `${givenName(name)}${address(where)}`)
    lines.push(addresses.length === 0 ? 'no listeners' : addresses.join('  '))
  }
  if (lost !== undefined)
    lines.push(colors.red(`Nobody answers since ${clock(lost.time)}: ${plain(lost.reason)}. Waiting for a server.`))
  return lines
}

/** The name that a user has given a listener, with a space. One that passfd has made says what the address says, but for UDP. */
function givenName(name: string): string {
  return /^[a-z_][\w.-]*$/i.test(name) ? `${name} ` : (/^udp[46] /.exec(name)?.[0] ?? '')
}

/** Both, at the ends of a line. */
function ends(left: string, right: string, columns: number): string {
  const space = columns - stringWidth(left) - stringWidth(right)
  return space < 2 ? left : `${left}${' '.repeat(space)}${right}`
}

function count(number: number, word: string): string {
  return `${amount(number)} ${word}${number === 1 ? '' : 's'}`
}

// --- the table

interface Column {
  title: string
  width: number
  /** Its cell of a row that has a worker. */
  cell(row: Row, view: View, colors: Colors): string
}

const STATES = { starting: 'yellow', ready: 'green', stopping: 'yellow', hung: 'red', exited: 'red' } as const

/** Of 80 cells they leave some for a reason. */
const COLUMNS: readonly Column[] = [
  { title: 'SLOT', width: 4, cell: ({ slot }) => String(slot) },
  { title: 'PID', width: 7, cell: ({ worker }) => String(worker!.pid ?? UNKNOWN) },
  { title: 'STATE', width: 8, cell: ({ worker }, _, colors) => colors[STATES[worker!.state]](worker!.state) },
  { title: 'UPTIME', width: 7, cell: ({ worker }) => duration(worker!.uptime) },
  { title: 'CONN', width: 5, cell: ({ worker }, view) => known(view, amount(worker!.connections)) },
  {
    title: 'REQ/S',
    width: 6,
    cell: ({ requests }, view) => known(view, requests === undefined ? UNKNOWN : amount(requests))
  },
  { title: 'LAG', width: 6, cell: ({ worker }, view, colors) => known(view, lag(worker!.lag, colors)) },
  { title: 'CPU%', width: 5, cell: ({ cpu }) => cpu?.toFixed(1) ?? UNKNOWN },
  { title: 'RSS', width: 6, cell: ({ worker }) => (worker!.rss === 0 ? UNKNOWN : bytes(worker!.rss)) }
]
/** Of all these columns. */
const WIDTH = COLUMNS.reduce((sum, { width }) => sum + width + 1, -1)
/** The column behind them. */
const LAST = 'RESTARTS'

function known({ sample }: View, cell: string): string {
  return sample.status.foreign ? UNKNOWN : cell
}

function lag(milliseconds: number, colors: Colors): string {
  const text = delay(milliseconds)
  return milliseconds >= VERY_LATE ? colors.red(text) : milliseconds >= LATE ? colors.yellow(text) : text
}

function table(view: View, rows: readonly Row[], selected: number | undefined, colors: Colors): string[] {
  const title = COLUMNS.map(({ title, width }) => (title === 'STATE' ? title.padEnd(width) : title.padStart(width)))
  const lines = rows.map(row => {
    const line = lineOf(row, view, row.slot === selected ? PLAIN : colors)
    return row.slot === selected ? colors.inverse(line) : line
  })
  return [colors.bold(`${title.join(' ')} ${LAST}`), ...lines]
}

function lineOf(row: Row, view: View, colors: Colors): string {
  const { worker } = row
  if (worker === undefined) return emptyLine(row, colors)
  const cells = COLUMNS.map(({ title, width, cell }) => {
    const text = cell(row, view, colors)
    const space = ' '.repeat(Math.max(0, width - stringWidth(text)))
    return title === 'STATE' ? `${text}${space}` : `${space}${text}`
  })
  const reason = worker.reason ?? worker.restartReason
  return `${cells.join(' ')} ${worker.restarts}${reason === undefined ? '' : `: ${plain(reason)}`}`
}

/** The cells between the pid and the restarts contain when the next worker starts. */
function emptyLine({ slot, empty }: Row, colors: Colors): string {
  const head = `${String(slot).padStart(4)} ${UNKNOWN.padStart(7)} ${colors.red('empty')}`
  if (empty === undefined) return head
  const { startsIn, restarts, restartReason } = empty
  const text = startsIn === undefined ? head : `${head}    next worker in ${duration(startsIn)}`
  const space = ' '.repeat(Math.max(0, WIDTH - stringWidth(text)))
  return `${text}${space} ${restarts}${restartReason === undefined ? '' : `: ${plain(restartReason)}`}`
}

/** For a line that has one look as a whole. */
const PLAIN = picocolors.createColors(false)

function tableAndEvents(picture: Picture, view: View, room: number, columns: number, colors: Colors): string[] {
  const { looks, happenings } = picture
  const { rows } = view
  // Both have a title. A third of the room is the events', and what the table does not need
  const forEvents = Math.max(room - rows.length - 2, Math.floor((room - 2) / 3), 0)
  const forRows = Math.max(0, room - forEvents - 2)
  const selected = rows.findIndex(({ slot }) => slot === looks.selected)
  const first = Math.max(0, Math.min(selected - Math.floor(forRows / 2), rows.length - forRows))
  const shown = rows.slice(first, first + forRows)
  const note = shown.length === rows.length ? '' : `rows ${first + 1} to ${first + shown.length} of ${rows.length}`
  return [
    ...table(view, shown, looks.selected, colors),
    ...(forEvents > 0 ? eventsOf(happenings, forEvents, colors.dim(note), columns, colors) : [])
  ]
}

/** The newest that fit. `note`: at the end of their title. */
function eventsOf(
  happenings: readonly Happening[],
  room: number,
  note: string,
  columns: number,
  colors: Colors
): string[] {
  const lines = happenings.slice(-room).map(({ time, text }) => `${clock(time)} ${plain(text)}`)
  return [ends(colors.bold('EVENTS'), note, columns), ...lines]
}

// --- one worker

function detailOf(picture: Picture, view: View, slot: number, room: number, columns: number, colors: Colors): string[] {
  const rows = view.rows.filter(row => row.slot === slot)
  const lines = rows.flatMap(row => blockOf(row, view, columns, colors))
  if (rows.length === 0) lines.push(`There is no slot ${slot}.`)
  const happenings = picture.happenings.filter(one => one.slot === slot)
  const left = room - lines.length - 1
  return left > 0 ? [...lines, ...eventsOf(happenings, left, '', columns, colors)] : lines
}

function blockOf(
  { slot, worker, empty, requests, cpu, history }: Row,
  view: View,
  columns: number,
  colors: Colors
): string[] {
  if (worker === undefined) {
    const { startsIn, restarts = 0, restartReason } = empty ?? {}
    const next =
      startsIn === undefined ? 'no worker starts in it now' : `the next worker starts in ${duration(startsIn)}`
    const last = restartReason === undefined ? '' : `, the last: ${plain(restartReason)}`
    return [
      `slot ${slot} is ${colors.red('empty')}: ${next}`,
      ...(restarts === 0 ? [] : [`${'restarts'.padEnd(12)}${restarts}${last}`])
    ]
  }
  const { id, pid, state, uptime, reason, restarts, restartReason } = worker
  const { foreign } = view.sample.status
  const line = (title: string, value: string, values: readonly number[] = []) =>
    `${title.padEnd(12)}${value.padEnd(20)}${colors.cyan(bars(values, columns - 32))}`
  const served = foreign
    ? [line('served', 'unknown: its program does not report to passfd')]
    : [
        line('connections', amount(worker.connections)),
        line('requests', amount(worker.requests)),
        line('requests/s', requests === undefined ? UNKNOWN : amount(requests), history.requests),
        line('lag', delay(worker.lag), history.lag)
      ]
  return [
    colors.bold(`slot ${slot}  process ${pid ?? UNKNOWN}  worker ${id}`),
    `${'state'.padEnd(12)}${colors[STATES[state]](state)}, for ${duration(uptime)} since its start`,
    ...served,
    line('CPU', `${cpu?.toFixed(1) ?? UNKNOWN}%, ${duration(worker.cpu)} in all`, history.cpu),
    line('RSS', bytes(worker.rss), history.rss),
    line('restarts', `${restarts}${restartReason === undefined ? '' : `, the last: ${plain(restartReason)}`}`),
    ...(reason === undefined ? [] : [line('ends', plain(reason))]),
    ''
  ]
}
