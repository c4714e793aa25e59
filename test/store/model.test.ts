import { isFull, isInCi, times } from '../helpers/full.ts'
import { test } from '../helpers/test.ts'
import { explore, type Limits, type Mutation } from './model.ts'

const STATES = isInCi ? times(6000, 300_000) : 3000
const TWO: Partial<Limits> = { programs: [['put'], ['take', 'end']] }
const KEPT: Partial<Limits> = { programs: [['putKeep'], ['take', 'end']] }
const BOTH: Partial<Limits> = {
  programs: [
    ['put', 'take', 'keep'],
    ['take', 'keep']
  ]
}
const TAKEN: Partial<Limits> = {
  programs: [
    ['put', 'take'],
    ['take', 'keep']
  ]
}

const CASES: Record<string, Partial<Limits>> = {
  'no fault': {
    programs: [
      ['put', 'copy', 'remove'],
      ['take', 'end']
    ],
    window: 2
  },
  'a takeover': { ...KEPT, takeovers: 1 },
  'a lost channel': { ...KEPT, losses: 1 },
  'a takeover, a lost channel and a client that is away': { ...KEPT, takeovers: 1, losses: 1, absences: 1 },
  'the store is killed': { ...KEPT, killStores: 1 },
  'the store or its successor is killed': { ...KEPT, takeovers: 1, killStores: 1, stores: 3 },
  'a takeover, and a client is killed': { ...KEPT, takeovers: 1, killClients: 1 },
  'a lost channel, a store that is killed, and both take': { ...BOTH, losses: 1, killStores: 1 },
  'a takeover, a client that is away, a store that is killed, and both take': {
    ...BOTH,
    takeovers: 1,
    absences: 1,
    killStores: 2,
    stores: 3
  },
  'entries that expire': { ...KEPT, takeovers: 1, losses: 1, expiries: 1, absences: 1 },
  'entries that are removed and put again': {
    programs: [
      ['put', 'remove', 'put'],
      ['take', 'end']
    ],
    takeovers: 1,
    losses: 1
  },
  'entries that are replaced': {
    programs: [
      ['putKeep', 'replace'],
      ['take', 'end']
    ],
    takeovers: 1,
    losses: 1
  },
  'two clients that put': {
    programs: [['putKeep'], ['replace', 'take', 'end']],
    takeovers: 1,
    killStores: 1,
    stores: 3
  },
  'two requests under way': {
    programs: [
      ['putKeep', 'remove'],
      ['take', 'end']
    ],
    takeovers: 1,
    killStores: 1,
    window: 2,
    stores: 3
  },
  'three clients': { programs: [['put'], ['take', 'end'], ['take', 'keep']], losses: 1, absences: 1, killClients: 1 },
  'two takeovers': { ...TWO, takeovers: 2, stores: 3, losses: 1, absences: 1 },
  'everything at once': {
    ...KEPT,
    takeovers: 2,
    losses: 1,
    absences: 1,
    expiries: 1,
    killStores: 2,
    killClients: 1,
    stores: 4
  }
}

for (const [name, limits] of Object.entries(CASES))
  test(`${name}: what must hold holds in every state`, t => {
    const found = explore(limits, {}, STATES)
    t.is(found.violation, undefined, found.trace?.join('\n'))
    t.log(`${found.states} states${found.complete ? ', all' : ''}`)
  })

const MUTATIONS: Record<string, [Mutation, Partial<Limits>]> = {
  'the state has no results': [{ noResultsInState: true }, { ...TWO, takeovers: 1, killStores: 1 }],
  'the state has no leases': [{ noLeasesInState: true }, { ...TWO, takeovers: 1 }],
  'the state is read before the freeze': [{ readsBeforeFreeze: true }, { ...TWO, takeovers: 1 }],
  'results are forgotten at the freeze': [{ forgetsAtFreeze: true }, { ...TWO, takeovers: 1, losses: 1 }],
  'a frozen store answers': [{ frozenAnswers: true }, { ...TWO, takeovers: 1 }],
  'a frozen store gives leases back': [{ frozenSeesEnds: true }, { ...TWO, takeovers: 1, losses: 1 }],
  'a store that has been replaced answers': [{ movedAnswers: true }, { ...TWO, takeovers: 1 }],
  'a successor answers before its mark': [{ earlyAnswers: true }, { ...TWO, takeovers: 1 }],
  'a store without the state has the epoch of its predecessor': [{ sameEpoch: true }, { ...KEPT, killStores: 1 }],
  'the store closes its copies when it answers take': [{ closesAtTake: true }, { ...TWO, killClients: 1 }],
  'the store does not record that an entry was kept': [{ keepNotRecorded: true }, { ...TWO, losses: 1 }],
  'a client repeats without ids': [{ repeatsWithoutIds: true }, { ...TWO, losses: 1 }],
  'a client that the store has forgotten repeats': [{ repeatsToStranger: true }, { ...TWO, losses: 1, absences: 1 }],
  'the store forgets a client when its channel ends': [{ forgetsAtEnd: true }, { ...TWO, losses: 1 }],
  'older channels of a client are read, and what it has seen is no matter': [
    { olderChannelsLive: true, ignoresSeen: true },
    {
      programs: [
        ['put', 'copy'],
        ['take', 'end']
      ],
      losses: 1
    }
  ],
  'the end of an older channel gives leases back': [
    { olderChannelsLive: true, olderEndCounts: true },
    { ...TWO, losses: 1 }
  ],
  'a repeated put does not say that its entry is gone': [{ noGoneAtRepeat: true }, { ...KEPT, losses: 1 }],
  'hello does not say what is gone': [{ noGoneAtHello: true }, { ...KEPT, losses: 1 }],
  'the answer to hello decides about what is just being kept': [{ helloDecides: true }, { ...TWO, losses: 1 }],
  'after a crash all leases are owned': [{ ownsAlways: true }, { ...TAKEN, losses: 1, killStores: 1 }],
  'a try to connect that ends is the death of the store': [
    { triesCount: true },
    { ...TAKEN, losses: 1, killStores: 1 }
  ],
  'a store cuts a channel without a goodbye': [{}, { ...TAKEN, silent: 1, killStores: 1 }],
  'the leases of the dead stay': [{ leasesStay: true }, { ...TWO, takeovers: 1, killClients: 1 }]
}

// 130,000 states
if (isFull)
  MUTATIONS['after a crash a keep without an answer is owned, also if its lease was over'] = [
    { ownsDoubted: true },
    {
      programs: [
        ['putKeep', 'take', 'keep'],
        ['take', 'end']
      ],
      losses: 1,
      killStores: 1
    }
  ]

for (const [name, [mutation, limits]] of Object.entries(MUTATIONS))
  test(`the model finds fault with: ${name}`, t => {
    const found = explore(limits, mutation, 200_000)
    t.not(found.violation, undefined)
    t.log(`${found.violation}, in ${found.trace?.length} steps; ${found.states} states`)
  })

// Each of the two protects by itself against a request that was left in an older channel
for (const mutation of [{ olderChannelsLive: true }, { ignoresSeen: true }] as Mutation[])
  test(`the model finds no fault with ${Object.keys(mutation).join()} alone`, t => {
    const found = explore(
      {
        programs: [
          ['put', 'copy'],
          ['take', 'end']
        ],
        losses: 1
      },
      mutation
    )
    t.is(found.violation, undefined, found.trace?.join('\n'))
    t.true(found.complete)
  })
