import { type Action, type Key, press } from '../../../src/cli/top/keys.ts'
import { LOOKS, type Looks } from '../../../src/cli/top/picture.ts'
import { viewOf } from '../../../src/cli/top/view.ts'
import { adminStatus, adminWorker } from '../../helpers/admin-status.ts'
import { test } from '../../helpers/test.ts'

const viewWith = (slots: number) =>
  viewOf(undefined, {
    status: adminStatus(Array.from({ length: slots }, (_, slot) => adminWorker({ slot, id: slot + 1 }))),
    at: 0,
    time: 0
  })

const NAMES: Record<string, Key> = {
  enter: { name: 'return', sequence: '\r' },
  esc: { name: 'escape', sequence: '\x1b' },
  'ctrl-c': { name: 'c', ctrl: true, sequence: '\x03' },
  'ctrl-z': { name: 'z', ctrl: true, sequence: '\x1a' },
  '+': { sequence: '+' },
  '-': { sequence: '-' }
}
const keyOf = (name: string): Key =>
  NAMES[name] ?? (name.length > 1 ? { name, sequence: '\x1b[' } : { name: name.toLowerCase(), sequence: name })

/** What becomes of the looks, and the actions, after these keys. */
function pressed(keys: string, slots = 12, answers = true) {
  const view = answers ? viewWith(slots) : undefined
  let looks: Looks = LOOKS
  const actions: Action[] = []
  for (const name of keys.split(' ')) {
    const [next, action] = press(looks, keyOf(name), view)
    looks = next
    if (action !== undefined) actions.push(action)
  }
  return { ...looks, actions: actions.join(' ') }
}

test('commands; stop asks once more', t => {
  t.is(pressed('r + - q ctrl-c ctrl-z x').actions, 'reload grow shrink quit quit suspend')
  t.like(pressed('s'), { asks: true, actions: '' })
  t.like(pressed('s y'), { asks: false, actions: 'stop' })
  t.like(pressed('s Y'), { asks: false, actions: 'stop' })
  for (const other of ['n', 's', 'r', 'q', 'esc', 'enter', '3'])
    t.like(pressed(`s ${other}`), { asks: false, actions: '', detail: undefined })
  t.is(pressed('s ctrl-c').actions, 'quit')
})

test('the cursor stays on the slots, and goes with the worker that is shown', t => {
  t.is(pressed('down').selected, 1)
  t.is(pressed('j j k').selected, 1)
  t.is(pressed('up').selected, 0)
  t.is(pressed('end down').selected, 11)
  t.is(pressed('pagedown pageup home').selected, 0)
  t.like(pressed('down enter'), { selected: 1, detail: 1 })
  t.like(pressed('down enter down'), { selected: 2, detail: 2 })
  t.like(pressed('enter enter'), { detail: undefined })
  t.like(pressed('enter esc'), { detail: undefined })
  t.like(pressed('down', 0), { selected: 0 })
})

test('digits show a slot, as soon as no other one can be meant', t => {
  t.like(pressed('7'), { detail: 7, selected: 7, typed: '' })
  t.like(pressed('1'), { detail: undefined, typed: '1' })
  t.like(pressed('1 enter'), { detail: 1, typed: '' })
  t.like(pressed('1 1'), { detail: 11, typed: '' })
  t.like(pressed('1 esc'), { detail: undefined, typed: '' })
  t.like(pressed('1 q'), { detail: undefined, actions: 'quit' })
  t.like(pressed('1 9'), { detail: undefined, typed: '' })
  t.like(pressed('5', 3), { detail: undefined, typed: '' })
  t.like(pressed('0', 1), { detail: 0 })
})

test('while nobody answers there is nothing to command', t => {
  t.like(pressed('r + - s enter 1 down', 0, false), { ...LOOKS, actions: '' })
  t.is(pressed('q', 0, false).actions, 'quit')
})
