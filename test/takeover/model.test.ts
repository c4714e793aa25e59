import { isInCi, times } from '../helpers/full.ts'
import { test } from '../helpers/test.ts'
import { explore, type Limits, type Mutation } from './model.ts'

const STATES = isInCi ? times(20_000, 200_000) : 5000
const NOTHING = { processes: 2, kills: 0, losses: 0, throws: 0, stateful: false }
const SMALL: Record<string, Partial<Limits>> = {
  'no fault': {},
  'no fault, with a state': { stateful: true },
  'three processes, with a state': { processes: 3, stateful: true },
  'a kill': { kills: 1 },
  'a kill, with a state': { kills: 1, stateful: true },
  'a lost channel, with a state': { losses: 1, stateful: true },
  'a throw, with a state': { throws: 1, stateful: true },
  'a kill and a lost channel, with a state': { kills: 1, losses: 1, stateful: true },
  'three processes, two faults of each kind, with a state': {
    processes: 3,
    kills: 2,
    losses: 2,
    throws: 2,
    stateful: true
  },
  'four processes, a kill, with a state': { processes: 4, kills: 1, stateful: true }
}

for (const [name, limits] of Object.entries(SMALL))
  test(`${name}: what must hold holds in every state`, t => {
    t.timeout(600_000)
    const found = explore({ ...NOTHING, ...limits }, {}, STATES)
    t.is(found.violation, undefined, found.trace?.join('\n'))
    t.log(`${found.states} states`)
  })

const MUTATIONS: Record<string, [Mutation, Partial<Limits>]> = {
  'rolls back by the clock alone': [{ noByte: true }, { stateful: true }],
  'lets go before the mark': [{ earlyLetGo: true }, { throws: 1, losses: 1 }],
  'uses the state before its mark': [{ earlyUse: true }, { kills: 1, stateful: true }],
  "takes the channel's end for a death": [{ noLifePipe: true }, { losses: 1, stateful: true }]
}

for (const [name, [mutation, limits]] of Object.entries(MUTATIONS))
  test(`the model finds fault with a side that ${name}`, t => {
    const found = explore({ ...NOTHING, ...limits }, mutation, 500_000)
    t.not(found.violation, undefined)
    t.log(found.violation, found.trace?.length)
  })
