/** What a key does in `passfd top`. Pure. */
import type { Looks } from './picture.ts'
import type { View } from './view.ts'

/** As node:readline names it. */
export interface Key {
  name?: string | undefined
  sequence?: string | undefined
  ctrl?: boolean | undefined
}

export type Action = 'quit' | 'suspend' | 'reload' | 'grow' | 'shrink' | 'stop'

/** `view`: undefined while nobody answers; then there is nothing to command. */
export function press(looks: Looks, { name, sequence, ctrl }: Key, view: View | undefined): [Looks, Action?] {
  if (ctrl) return name === 'c' ? [looks, 'quit'] : name === 'z' ? [looks, 'suspend'] : [looks]
  if (looks.asks)
    return sequence === 'y' || sequence === 'Y' ? [{ ...looks, asks: false }, 'stop'] : [{ ...looks, asks: false }]
  if (sequence === 'q') return [looks, 'quit']
  if (view === undefined) return [looks]
  const slots = [...new Set(view.rows.map(({ slot }) => slot))]
  if (/^\d$/.test(sequence ?? '')) return [typed({ ...looks, typed: `${looks.typed}${sequence}` }, slots)]
  if (looks.typed !== '') return [name === 'return' ? open(looks, Number(looks.typed), slots) : { ...looks, typed: '' }]
  switch (name ?? sequence) {
    case 'return':
      return [looks.detail === undefined ? open(looks, looks.selected, slots) : { ...looks, detail: undefined }]
    case 'escape':
    case 'backspace':
      return [{ ...looks, detail: undefined }]
    case 'up':
    case 'k':
      return [moved(looks, -1, slots)]
    case 'down':
    case 'j':
      return [moved(looks, 1, slots)]
    case 'pageup':
      return [moved(looks, -10, slots)]
    case 'pagedown':
      return [moved(looks, 10, slots)]
    case 'home':
      return [moved(looks, -Infinity, slots)]
    case 'end':
      return [moved(looks, Infinity, slots)]
    case 'r':
      return [looks, 'reload']
    case 's':
      return [{ ...looks, asks: true }]
  }
  if (sequence === '+') return [looks, 'grow']
  if (sequence === '-') return [looks, 'shrink']
  return [looks]
}

/** Opens the slot as soon as no other number begins with these digits. */
function typed(looks: Looks, slots: readonly number[]): Looks {
  const begun = slots.filter(slot => String(slot).startsWith(looks.typed))
  if (begun.length === 0) return { ...looks, typed: '' }
  return begun.length === 1 && String(begun[0]) === looks.typed ? open(looks, begun[0]!, slots) : looks
}

function open(looks: Looks, slot: number, slots: readonly number[]): Looks {
  if (!slots.includes(slot)) return { ...looks, typed: '' }
  return { ...looks, selected: slot, detail: slot, typed: '' }
}

function moved(looks: Looks, by: number, slots: readonly number[]): Looks {
  const index = slots.indexOf(looks.selected) + by
  const selected = slots[Math.max(0, Math.min(index, slots.length - 1))] ?? 0
  return { ...looks, selected, detail: looks.detail === undefined ? undefined : selected }
}
