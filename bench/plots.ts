/** The plots, drawn by Vega: no background and middling colours, so that they can be read on a light page and on a dark one. */
import { parse, View } from 'vega'
import { compile, type TopLevelSpec } from 'vega-lite'
import type { Result } from './measure.ts'
import { figure } from './report.ts'

export interface Panel {
  title: string
  result: Result
}

const OURS = '#e8590c'
const THEIRS = '#5c8fc7'
const TEXT = '#848d97'
const LINES = '#84909c55'
const WIDTH = 420

interface Mark {
  panel: string
  who: string
  value: number
  label: string
}

/** For values that lie orders of magnitude apart: dots on a logarithmic scale. */
export function points(panels: Panel[]): Promise<string> {
  return draw(panels, { type: 'point', filled: true, size: 90, opacity: 1 }, { type: 'log', padding: 12 })
}

/** Bars from zero. */
export function bars(panels: Panel[]): Promise<string> {
  return draw(panels, { type: 'bar', height: 13 }, { zero: true })
}

export interface Count {
  name: string
  value: number
  label: string
}

/** Dots on one logarithmic axis, for counts of which none is better than another. Names stand above their lines: so it is narrow enough for a phone. */
export function counts(title: string, values: readonly Count[]): Promise<string> {
  const numbers = values.map(({ value }) => value)
  const start = Math.min(...numbers) < 100 ? 1 : 100
  const y = { field: 'name', type: 'nominal', sort: null, axis: null } as const
  const axis = {
    title: null,
    orient: 'top',
    offset: 6,
    grid: false,
    format: ',',
    values: everySecondPower(start, numbers)
  } as const
  const x = {
    field: 'value',
    type: 'quantitative',
    scale: { type: 'log', domainMin: start, nice: true },
    axis
  } as const
  return render({
    title: { text: title, anchor: 'start', fontSize: 12 },
    width: 200,
    height: { step: 36 },
    data: { values: values.map(value => ({ ...value, start })) },
    encoding: { y },
    layer: [
      {
        mark: { type: 'text', align: 'left', dy: -13, fontSize: 12, color: TEXT },
        encoding: { x: { value: 0 }, text: { field: 'name' } }
      },
      { mark: { type: 'rule', color: LINES }, encoding: { x, x2: { field: 'start' } } },
      { mark: { type: 'point', filled: true, size: 90, opacity: 1, color: OURS }, encoding: { x } },
      {
        mark: { type: 'text', align: 'left', dx: 9, fontSize: 12, color: TEXT },
        encoding: { x, text: { field: 'label' } }
      }
    ]
  } as never)
}

/** The powers of a hundred from `start` to what is not less than the largest number. */
function everySecondPower(start: number, numbers: readonly number[]): number[] {
  const powers = [start]
  while (powers.at(-1)! < Math.max(...numbers)) powers.push(powers.at(-1)! * 100)
  return powers
}

/** One line: the peers of the row are the smaller numbers of channels, ours is the largest. */
export function growth([panel]: Panel[]): Promise<string> {
  const { title, result } = panel!
  const values = Object.entries(result.peers).map(([peer, value]) => ({ channels: Number.parseInt(peer, 10), value }))
  values.push({ channels: 1000, value: result.ours })
  const encoding = {
    x: {
      field: 'channels',
      type: 'quantitative',
      scale: { type: 'log' },
      axis: { title: 'channels', values: [1, 10, 100, 1000], grid: false }
    },
    y: { field: 'value', type: 'quantitative', scale: { zero: true }, axis: { title: null, tickCount: 4 } }
  } as const
  return render({
    title: { text: title, anchor: 'start', fontSize: 12 },
    width: WIDTH,
    height: 140,
    data: { values },
    encoding,
    layer: [
      { mark: { type: 'line', color: OURS } },
      { mark: { type: 'point', filled: true, size: 90, opacity: 1, color: OURS } }
    ]
  } as never)
}

/** No axis is drawn: what it would tell is told here. */
function titleOf({ title, result }: Panel, { type }: Scale): string {
  return `${title} (${result.better} is better${type === 'log' ? '; logarithmic' : ''})`
}

interface Scale {
  type?: 'log'
  zero?: boolean
  padding?: number
}

function draw(panels: Panel[], mark: object, scale: Scale): Promise<string> {
  const y = { field: 'who', type: 'nominal', sort: null, axis: { title: null, domain: false, ticks: false } }
  const color = { condition: { test: "datum.who === 'passfd'", value: OURS }, value: THEIRS }
  const x = { field: 'value', type: 'quantitative', scale, axis: null }
  return render({
    spacing: 18,
    vconcat: panels.map(panel => ({
      title: { text: titleOf(panel, scale), anchor: 'start', fontSize: 12 },
      width: WIDTH,
      height: { step: 19 },
      data: { values: marksOf(panel) },
      encoding: { y, x },
      layer: [
        { mark, encoding: { color } },
        { mark: { type: 'text', align: 'left', dx: 9, color: TEXT }, encoding: { text: { field: 'label' } } }
      ]
    }))
  } as never)
}

function marksOf({ title, result }: Panel): Mark[] {
  const marks: Mark[] = [{ panel: title, who: 'passfd', value: result.ours, label: figure(result.ours) }]
  for (const [who, value] of Object.entries(result.peers)) {
    const ratio = result.ratios[who]
    const label = ratio === undefined ? figure(value) : `${figure(value)}  (passfd ${figure(ratio)} ×)`
    marks.push({ panel: title, who, value, label })
  }
  return marks.sort((a, b) => (result.better === 'more' ? b.value - a.value : a.value - b.value))
}

async function render(spec: Record<string, unknown>): Promise<string> {
  const config = {
    background: 'transparent',
    font: 'system-ui, sans-serif',
    view: { stroke: null },
    title: { color: TEXT, frame: 'group' },
    axis: {
      labelColor: TEXT,
      titleColor: TEXT,
      gridColor: LINES,
      domainColor: LINES,
      tickColor: LINES,
      labelLimit: 220
    }
  }
  const { spec: vega } = compile({ padding: 8, ...spec, config } as unknown as TopLevelSpec)
  const view = new View(parse(vega), { renderer: 'none' })
  try {
    return `${await view.toSVG()}\n`
  } finally {
    view.finalize()
  }
}
