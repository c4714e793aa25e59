/** The results for people. */
import type { Result, Row } from './measure.ts'

export function heading(name: string, { what, unit, better, placement }: Row): string {
  return `${name}: ${what} (${unit}, ${better} is better; ${placement})`
}

export function table({ ours, min, max, peers, ratios }: Result, { unit }: Row): string {
  const lines = [line('passfd', ours, `${figure(min)} – ${figure(max)} ${unit}`)]
  for (const [peer, value] of Object.entries(peers)) lines.push(line(peer, value, `passfd / this = ${ratios[peer]}`))
  return `${lines.join('\n')}\n`
}

function line(who: string, value: number, rest: string): string {
  return `  ${who.padEnd(24)}${figure(value).padStart(12)}  ${rest}`
}

function figure(value: number): string {
  return value.toLocaleString('en-US', { maximumFractionDigits: value < 100 ? 2 : 0 })
}
