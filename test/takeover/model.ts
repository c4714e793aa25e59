/**
 * Every interleaving of an owner and its candidates, with the real state machines (`Attempt`, `Candidacy`) and a world of plain data: pipes, channels, who holds
 * what, kills, lost channels, limits that are over at any time, programs that throw. docs/takeover-protocol.md says what must hold.
 */
import { Attempt, type AttemptFacts } from '../../src/takeover/attempt.ts'
import { Candidacy, type CandidacyFacts, type Defeat } from '../../src/takeover/candidacy.ts'

/** What happens without fault; a limit that is over; a fault. */
type Kind = 'step' | 'time' | 'fault'

interface Process {
  role: 'idle' | 'candidate' | 'owner' | 'draining' | 'dead'
  /** Listeners and the takeover path, all of them. */
  holds: boolean
  accepts: boolean
  /** What it has of the state; a stale one is one that another process has used since. */
  state: 'none' | 'live' | 'frozen' | 'stale' | 'copy' | 'half'
  candidacy?: CandidacyFacts
  attempt?: { of: number; facts: AttemptFacts }
}

/** Of the attempt of one candidate: each is the kernel's. */
interface Wires {
  byte: 'none' | 'there' | 'taken'
  life: 'silent' | 'marked' | 'gone'
  /** The owner at the other end, as the candidate began with it. */
  of: number
  /** That one's life pipe, as the candidate sees it: dying is not atomic. */
  ownerLife: 'lives' | 'dying' | 'gone'
  /** Open, and what is under way: one request or one answer. */
  open: boolean
  up: '' | 'begin' | 'more' | 'freeze' | 'state'
  down: '' | 'part' | 'last' | 'half' | 'whole' | 'fault'
  /** The owner has answered that it could not freeze. */
  refused?: boolean
}

export interface World {
  processes: Process[]
  wires: (Wires | null)[]
  faults: { kills: number; losses: number; throws: number }
  /** The state was lost with a process that had it alone. */
  lost: boolean
}

export interface Limits {
  processes: number
  kills: number
  losses: number
  throws: number
  stateful: boolean
}

export interface Found {
  states: number
  /** The first violation, and the way to it. */
  violation?: string
  trace?: string[]
}

/** Changes of the rules that the model must find fault with. */
export interface Mutation {
  /** The owner rolls back by its own clock, without reading the byte. */
  noByte?: boolean
  /** The owner lets go when the byte is gone, before the mark. */
  earlyLetGo?: boolean
  /** The candidate uses the state before its mark. */
  earlyUse?: boolean
  /** The candidate takes the end of the channel for the death of its owner. */
  noLifePipe?: boolean
}

export function explore(limits: Limits, mutation: Mutation = {}, most = Number.POSITIVE_INFINITY): Found {
  const first: World = {
    processes: Array.from({ length: limits.processes }, (_, index) =>
      index === 0
        ? { role: 'owner', holds: true, accepts: true, state: limits.stateful ? 'live' : 'none' }
        : { role: 'idle', holds: false, accepts: false, state: 'none' }
    ),
    wires: Array.from({ length: limits.processes }, () => null),
    faults: { kills: limits.kills, losses: limits.losses, throws: limits.throws },
    lost: false
  }
  const worlds = [JSON.stringify(first)]
  const from = [-1]
  const labels = ['start']
  const index = new Map([[worlds[0]!, 0]])
  const trace = (at: number, last: string): string[] => {
    const lines = [last]
    for (let one = at; one > 0; one = from[one]!) lines.push(labels[one]!)
    return lines.reverse()
  }
  for (let at = 0; at < worlds.length && at < most; at++) {
    let goesOn = false
    let found: Found | undefined
    const one = new Step(worlds[at]!, limits, mutation, (world, label, kind, violation) => {
      if (kind !== 'fault') goesOn = true
      if (violation !== undefined) found ??= { states: worlds.length, violation, trace: trace(at, label) }
      if (index.has(world)) return
      index.set(world, worlds.length)
      worlds.push(world)
      from.push(at)
      labels.push(label)
    })
    one.all()
    if (found !== undefined) return found
    if (!goesOn) {
      const violation = quiet(JSON.parse(worlds[at]!), limits)
      if (violation !== undefined)
        return { states: worlds.length, violation, trace: trace(at, '(nothing more happens)') }
    }
  }
  return { states: worlds.length }
}

/** What must hold when nothing more happens by itself. */
function quiet({ processes, wires }: World, { stateful }: Limits): string | undefined {
  const owners = processes.filter(({ role }) => role === 'owner')
  if (owners.length === 0)
    return processes.every(({ role }) => role === 'dead' || role === 'idle') ? undefined : 'nobody owns'
  if (owners.length > 1) return 'two own'
  const [owner] = owners as [Process]
  if (!owner.accepts || !owner.holds) return 'the owner does not accept'
  if (stateful && owner.state !== 'live' && owner.state !== 'none') return `the owner's state is ${owner.state}`
  if (owner.attempt !== undefined) return 'an attempt never ends'
  return wires.some(one => one !== null && one.up !== '') ? 'a request is never answered' : undefined
}

type Emit = (world: string, label: string, kind: Kind, violation: string | undefined) => void

/** All that can happen in one world. */
class Step {
  readonly #text: string
  readonly #limits: Limits
  readonly #mutation: Mutation
  readonly #emit: Emit
  #world!: World
  #violation: string | undefined

  constructor(text: string, limits: Limits, mutation: Mutation, emit: Emit) {
    this.#text = text
    this.#limits = limits
    this.#mutation = mutation
    this.#emit = emit
  }

  all(): void {
    const { processes, wires, faults } = JSON.parse(this.#text) as World
    for (const [i, { role, candidacy, attempt }] of processes.entries()) {
      if (role === 'dead') continue
      if (faults.kills > 0 && role !== 'idle') this.#make(`kill ${i}`, 'fault', () => this.#kill(i))
      if (role === 'idle') this.#starts(i, processes)
      if (role === 'draining') this.#make(`${i} ends`, 'step', () => this.#leave(i, 'dead'))
      if (role === 'candidate') this.#candidate(i, wires[i]!, candidacy!, faults)
      if (role === 'owner') this.#owner(i, wires, attempt, faults)
    }
  }

  #make(label: string, kind: Kind, change: () => void): void {
    this.#world = JSON.parse(this.#text)
    this.#violation = undefined
    change()
    this.#check()
    this.#emit(JSON.stringify(this.#world), label, kind, this.#violation)
  }

  #bad(what: string): void {
    this.#violation ??= what
  }

  // --- processes

  #starts(i: number, processes: readonly Process[]): void {
    // One that has been a candidate of this owner comes back when that one knows
    if (processes.some(({ attempt }) => attempt?.of === i)) return
    const owner = processes.findIndex(({ role }) => role === 'owner')
    if (owner >= 0)
      this.#make(`${i} connects to ${owner}`, 'step', () => {
        this.#world.processes[i] = {
          role: 'candidate',
          holds: false,
          accepts: false,
          state: 'none',
          candidacy: { state: 'waiting', connected: true, predecessorLives: true }
        }
        this.#world.wires[i] = {
          byte: 'none',
          life: 'silent',
          of: owner,
          ownerLife: 'lives',
          open: true,
          up: 'begin',
          down: ''
        }
      })
    else if (!processes.some((_, j) => this.#reaches(j)))
      this.#make(`${i} binds anew`, 'step', () => {
        this.#world.processes[i] = { role: 'owner', holds: true, accepts: true, state: 'none' }
        if (this.#limits.stateful) this.#use(i)
      })
  }

  /** It has a listener, or one is on its way to it: nobody else can bind. */
  #reaches(j: number): boolean {
    const { processes, wires } = JSON.parse(this.#text) as World
    const { role, holds, candidacy } = processes[j]!
    if (role === 'dead' || role === 'idle') return false
    const down = wires[j]?.down
    return holds || (candidacy !== undefined && (candidacy.state !== 'waiting' || down === 'part' || down === 'last'))
  }

  #kill(i: number): void {
    this.#world.faults.kills--
    const { state } = this.#world.processes[i]!
    const copies = this.#world.processes.some((one, j) => j !== i && ['live', 'frozen', 'copy'].includes(one.state))
    if (state !== 'none' && !copies) this.#world.lost = true
    this.#leave(i, 'dead')
  }

  #leave(i: number, role: 'dead' | 'idle'): void {
    const own = this.#world.wires[i]
    if (own) {
      own.open = false
      own.up = ''
      own.down = ''
      if (own.life === 'silent') own.life = 'gone'
    }
    for (const one of this.#world.wires)
      if (one?.of === i && role === 'dead') {
        one.open = false
        one.up = '' // nobody reads it
        if (one.ownerLife === 'lives') one.ownerLife = 'dying'
      }
    this.#world.processes[i] = { role, holds: false, accepts: false, state: 'none' }
  }

  /** Begins to use the state, or a fresh one. */
  #use(i: number): void {
    const { processes, lost } = this.#world
    const had = ['live', 'frozen', 'stale', 'copy'].includes(processes[i]!.state)
    for (const [j, one] of processes.entries()) {
      if (j === i) continue
      if (!had && !lost && ['live', 'frozen'].includes(one.state))
        this.#bad(`${i} begins afresh, and ${j} has the state`)
      if (one.state === 'live') this.#bad(`the state is used by ${i} and by ${j}`)
      if (['frozen', 'copy', 'half'].includes(one.state)) one.state = 'stale'
    }
    const { state } = processes[i]!
    if (state === 'stale') this.#bad(`${i} uses a state that another one has used since`)
    processes[i]!.state = 'live'
  }

  // --- the candidate

  #candidacy(i: number): Candidacy {
    const wires = this.#world.wires[i]!
    const process = this.#world.processes[i]!
    return new Candidacy(
      {
        takeByte: () => {
          const got = wires.byte === 'there'
          if (got) wires.byte = 'taken'
          return got
        },
        mark: () => {
          wires.life = 'marked'
        },
        awaitDeath: () => {},
        stateLost: () => {
          process.state = 'none'
        },
        giveUp: (_: Defeat) => this.#leave(i, 'idle')
      },
      process.candidacy
    )
  }

  #candidate(i: number, wires: Wires, facts: CandidacyFacts, faults: World['faults']): void {
    const answer = wires.down
    const own = (): Process => this.#world.processes[i]!
    const take = (change: (wires: Wires, candidacy: Candidacy) => void) => () => {
      this.#world.wires[i]!.down = ''
      change(this.#world.wires[i]!, this.#candidacy(i))
    }
    if (answer === 'part')
      this.#make(
        `${i} has a part of the offer`,
        'step',
        take((one, candidacy) => {
          candidacy.received(false)
          if (one.open) one.up = 'more'
        })
      )
    if (answer === 'last')
      this.#make(
        `${i} has the whole offer`,
        'step',
        take((_, candidacy) => {
          candidacy.received(true)
          own().holds = true
        })
      )
    if (answer === 'half')
      this.#make(
        `${i} has half of the state`,
        'step',
        take(one => {
          if (facts.state !== 'copying') return
          own().state = own().state === 'stale' ? 'stale' : 'half'
          if (one.open) one.up = 'state'
        })
      )
    if (answer === 'whole')
      this.#make(
        `${i} has the state`,
        'step',
        take((_, candidacy) => {
          if (facts.state !== 'copying') return
          if (own().state === 'half') own().state = 'copy'
          candidacy.inherited()
        })
      )
    if (answer === 'fault')
      this.#make(
        `${i} hears that its owner could not freeze`,
        'step',
        take((one, candidacy) => {
          one.refused = true
          candidacy.inherited()
        })
      )
    if (answer === '' && !wires.open && facts.connected)
      this.#make(`${i} sees its channel end`, 'step', () => {
        const { noLifePipe } = this.#mutation
        const candidacy = this.#candidacy(i)
        if (noLifePipe) candidacy.lifeEnded()
        candidacy.channelEnded()
      })
    if (wires.ownerLife === 'dying')
      this.#make(`the life pipe of ${wires.of} ends for ${i}`, 'step', () => {
        this.#world.wires[i]!.ownerLife = 'gone'
        this.#candidacy(i).lifeEnded()
      })
    if (facts.state === 'holding') {
      const { state } = (JSON.parse(this.#text) as World).processes[i]!
      // With a state it commits when it has that, or when that has died with its owner
      const ready = !this.#limits.stateful || state === 'copy' || state === 'stale' || !facts.predecessorLives
      if (ready) this.#make(`${i} commits`, 'step', () => this.#commit(i, false))
      else if (answer === '' && wires.up === '')
        this.#make(`${i} asks for the state`, 'step', () => {
          const now = this.#world.wires[i]!
          if (now.refused) this.#candidacy(i).giveUp()
          else if (this.#candidacy(i).inherit() && now.open) now.up = 'freeze'
        })
      if (faults.throws > 0) {
        this.#make(`${i} throws before the commit`, 'fault', () => {
          this.#world.faults.throws--
          this.#candidacy(i).giveUp()
        })
        if (ready)
          this.#make(`${i} throws in attach`, 'fault', () => {
            this.#world.faults.throws--
            this.#commit(i, true)
          })
      }
    }
    if (facts.state === 'won') this.#make(`${i} serves`, 'step', () => this.#attached(i))
    // A limit is longer than a process takes to die
    if (['waiting', 'receiving', 'copying', 'bereaved'].includes(facts.state) && wires.ownerLife !== 'dying')
      this.#make(`the limit of ${i} is over`, 'time', () => this.#candidacy(i).timeOver())
    if (faults.losses > 0 && wires.open)
      this.#make(`the channel of ${i} is lost`, 'fault', () => {
        this.#world.faults.losses--
        Object.assign(this.#world.wires[i]!, { open: false, up: '', down: '' })
      })
  }

  /** Between the byte and the mark it may be killed: a step of its own. */
  #commit(i: number, throws: boolean): void {
    const candidacy = this.#candidacy(i)
    if (!candidacy.commit()) return
    if (this.#mutation.earlyUse && this.#limits.stateful) this.#use(i)
    if (throws) candidacy.giveUp()
    else this.#world.processes[i]!.accepts = true
  }

  #attached(i: number): void {
    this.#candidacy(i).attached()
    const process = this.#world.processes[i]!
    const wires = this.#world.wires[i]!
    delete process.candidacy
    process.role = 'owner'
    wires.open = false
    wires.up = ''
    wires.down = ''
    if (this.#limits.stateful) this.#use(i)
  }

  // --- the owner

  #attempt(i: number): Attempt {
    const process = this.#world.processes[i]!
    const { of, facts } = process.attempt!
    const wires = this.#world.wires[of]!
    const over = (): void => {
      delete process.attempt
      if (wires.of === i) {
        wires.open = false
        wires.up = ''
      }
    }
    return new Attempt(
      {
        takeByte: () => {
          if (this.#mutation.noByte) return true
          const got = wires.byte === 'there'
          if (got) wires.byte = 'taken'
          return got
        },
        rollBack: ({ frozen }) => {
          if (frozen && this.#limits.stateful) this.#use(i)
          process.accepts = true
          over()
        },
        letGo: () => {
          over()
          Object.assign(process, { role: 'draining', holds: false, accepts: false, state: 'none' })
          for (const one of this.#world.wires)
            if (one?.of === i) {
              one.open = false
              one.up = ''
            }
        },
        awaitMark: () => {
          if (this.#mutation.earlyLetGo) {
            over()
            Object.assign(process, { role: 'draining', holds: false, accepts: false, state: 'none' })
          }
        }
      },
      facts
    )
  }

  #owner(i: number, wires: readonly (Wires | null)[], attempt: Process['attempt'], faults: World['faults']): void {
    if (attempt === undefined) {
      for (const [c, one] of wires.entries())
        if (one?.of === i && one.up === 'begin' && one.open)
          this.#make(`${i} offers to ${c}`, 'step', () => {
            this.#world.processes[i]!.attempt = { of: c, facts: { state: 'offering', frozen: false } }
            Object.assign(this.#world.wires[c]!, { up: '', down: 'part' })
          })
      return
    }
    const { of: c, facts } = attempt
    const one = wires[c]!
    if (one.of !== i) return
    const answer = (down: Wires['down']): void => {
      const now = this.#world.wires[c]!
      now.up = ''
      if (now.open) now.down = down
    }
    if (one.up === 'more')
      this.#make(`${i} offers the rest to ${c}`, 'step', () => {
        this.#world.wires[c]!.byte = 'there'
        this.#attempt(i).offered()
        answer('last')
      })
    if (one.up === 'freeze') {
      this.#make(`${i} freezes for ${c}`, 'step', () => {
        if (!this.#attempt(i).freeze()) return answer('fault')
        Object.assign(this.#world.processes[i]!, { state: 'frozen', accepts: false })
        answer('half')
      })
      if (faults.throws > 0)
        this.#make(`${i} can't freeze`, 'fault', () => {
          this.#world.faults.throws--
          const frozen = this.#attempt(i)
          frozen.freeze()
          frozen.notFrozen()
          answer('fault')
        })
    }
    if (one.up === 'state') this.#make(`${i} sends the rest of the state`, 'step', () => answer('whole'))
    if (one.life === 'marked') this.#make(`${i} reads the mark of ${c}`, 'step', () => this.#attempt(i).marked())
    if (one.life === 'gone' && one.up === '')
      this.#make(`${i} sees ${c} end`, 'step', () => this.#attempt(i).lifeEnded())
    if (facts.state === 'committed') return
    if (!one.open && one.up === '')
      this.#make(`${i} sees its channel to ${c} end`, 'step', () => this.#interrupted(i, one))
    this.#make(`the limit of ${i} is over`, 'time', () => this.#attempt(i).interrupted())
  }

  /** As the owner does: what the life pipe says by now counts more than the channel. */
  #interrupted(i: number, { life }: Wires): void {
    const attempt = this.#attempt(i)
    if (life === 'marked') attempt.marked()
    else if (life === 'gone') attempt.lifeEnded()
    else attempt.interrupted()
  }

  // --- what must hold in every world

  #check(): void {
    const { processes, wires } = this.#world
    const living = processes.filter(({ role }) => role !== 'dead')
    for (const [i, process] of processes.entries()) {
      if (process.role === 'owner' && !process.holds) this.#bad(`${i} owns and does not hold everything`)
      if (process.role === 'draining' && (process.holds || process.state !== 'none'))
        this.#bad(`${i} drains and keeps something`)
      if (process.role === 'owner' && process.attempt === undefined && !process.accepts)
        this.#bad(`${i} owns and does not accept`)
      for (const [j, other] of processes.entries()) {
        if (i >= j || process.role !== 'owner' || other.role !== 'owner') continue
        // Who has not read the mark of its successor yet is an owner no more
        const superseded = ({ attempt }: Process): boolean =>
          attempt !== undefined && wires[attempt.of]?.life === 'marked'
        if (!superseded(process) && !superseded(other)) this.#bad(`both ${i} and ${j} own`)
      }
    }
    const nobodyWasKilled = this.#world.faults.kills === this.#limits.kills
    if (nobodyWasKilled && !this.#limits.stateful && !living.some(({ accepts }) => accepts))
      this.#bad('nobody accepts, and nobody was killed')
    const capable = processes.some(
      ({ role, holds, candidacy }, i) =>
        (role === 'owner' && holds) ||
        (role === 'candidate' && holds && (candidacy!.state === 'won' || wires[i]!.byte === 'there'))
    )
    if (nobodyWasKilled && !capable) this.#bad('nobody alive can serve')
    if (
      this.#limits.stateful &&
      nobodyWasKilled &&
      !processes.some(({ state }) => ['live', 'frozen', 'copy'].includes(state))
    )
      this.#bad('the state is lost, and nobody was killed')
  }
}
