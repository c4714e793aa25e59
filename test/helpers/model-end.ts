/** One end of the model: a whole Channel over a fake socket, and a program that uses it in every way at random. */
import { type Channel, createChannel, sessionOf, startChannel } from '../../src/channel/channel.ts'
import type { Handler } from '../../src/channel/handlers.ts'
import type { Message } from '../../src/channel/message.ts'
import type { ChannelOptions, Limits } from '../../src/channel/options.ts'
import type { Returned } from '../../src/channel/returned.ts'
import { type Descriptor, own } from '../../src/descriptor/descriptor.ts'
import { EBADF, type FakeSocket } from './fake-wire.ts'
import type { Side } from './ledger.ts'
import { type Body, checkPayload, makeValue, type Post, type World } from './model.ts'

export type Mode = 'nobody' | 'serve' | 'iterate' | 'listen'

/** What a program may be told at the call. Then nothing has moved. */
const MISUSE = new Set([
  'ERR_PASSFD_MESSAGE_TOO_LARGE',
  'ERR_PASSFD_TOO_MANY_DESCRIPTORS',
  'ERR_PASSFD_QUEUE_FULL',
  'ERR_PASSFD_TOO_MANY_REQUESTS',
  'ERR_PASSFD_CHANNEL_CLOSED'
])

/** What the peer's hello says of what was sent before it. */
const UNFIT = new Set(['ERR_PASSFD_MESSAGE_TOO_LARGE', 'ERR_PASSFD_TOO_MANY_DESCRIPTORS'])

export class End {
  readonly side: Side
  readonly channel: Channel<any, any>
  readonly world: World
  readonly socket: FakeSocket
  readonly limits: Limits
  /** Own descriptors, for sending. */
  readonly pool: Descriptor[] = []
  /** What the program will do some time later. */
  readonly tasks: { label: string; run(): void }[] = []
  readonly controllers: { post: Post; controller: AbortController }[] = []
  mode: Mode = 'nobody'
  started = false
  over = false
  open = false
  closing = false
  dead = false
  listensReturned = false
  /** An iterator has come to its end: nothing more can be read. */
  finished = false
  /** How many loops share the iterator. */
  loops = 1
  #iterator: AsyncIterableIterator<Message<any>> | undefined
  #asking = 0
  /** A failing handler doesn't end its channel. */
  readonly #patient: boolean
  #lastSerial = 0
  readonly #seen: Descriptor[] = []
  /** What it tried to send. */
  readonly #sent = new Set<Descriptor>()
  #closeEvents = 0

  constructor(world: World, side: Side, socket: FakeSocket, limits: Limits, options: ChannelOptions<any>) {
    this.world = world
    this.side = side
    this.socket = socket
    this.limits = limits
    this.#patient = world.settings.profile !== 'rough' || world.random.chance(0.7)
    this.channel = createChannel({
      wire: socket,
      peer: { pid: 1, uid: 0, gid: 0, groups: [], agent: '', pidfd: noPidfd },
      limits,
      options,
      onOpen: error => {
        if (error === undefined) this.open = true
      }
    })
    this.channel.on('close', error => {
      this.over = true
      if (++this.#closeEvents > 1) world.problem(`${side}: 'close' came twice`)
      world.note(`${side} closed: ${error?.message ?? 'gracefully'}`)
    })
    world.track(this, 'closed', this.channel.closed)
  }

  start(): void {
    this.started = true
    startChannel(this.channel, this.limits.handshakeTimeout)
  }

  hearReturned(): void {
    this.listensReturned = true
    this.channel.on('returned', returned => this.#returned(returned))
  }

  // --- sending

  send(): void {
    const { random } = this.world
    const count = random.weighted([
      [6, 0],
      [4, 1],
      [3, random.integer(2, 5)],
      [this.world.settings.bulky ? 1 : 0, random.integer(60, 253)]
    ])
    const post = this.#post('message', this.#gather(count))
    const promise = this.#attempt(post, () => this.channel.send(post.value))
    if (promise === undefined) return
    const { binary } = post
    const overwrite = (): unknown => binary?.fill(0xff)
    this.world.track(this, `send ${post.serial}`, promise, overwrite, overwrite)
  }

  request(): void {
    const { random } = this.world
    const post = this.#post(
      'request',
      this.#gather(
        random.weighted([
          [4, 0],
          [2, 1],
          [1, random.integer(2, 5)]
        ])
      )
    ) // prettier-ignore
    const allowance = random.weighted([
      [3, 1],
      [2, 0],
      [2, 5]
    ]) // prettier-ignore
    const controller = random.chance(0.5) ? new AbortController() : undefined
    const timeout = random.chance(0.3) ? random.integer(1, 300) : 0
    if (random.chance(0.05)) post.value.bad = true
    const promise = this.#attempt(post, () =>
      this.channel.request(post.value, {
        descriptors: allowance,
        timeout,
        ...(controller === undefined ? {} : { signal: controller.signal })
      })
    )
    if (promise === undefined) return
    if (controller !== undefined) this.controllers.push({ post, controller })
    post.timeout = timeout
    this.world.track(
      this,
      `request ${post.serial}`,
      promise,
      reply => this.#answered(post, reply as Body),
      error => {
        post.gaveUpIn = sessionOf(this.channel).state
        post.outcome = (error as { code?: string }).code ?? String(error)
        this.world.refusal(this, post, error as Error)
      }
    )
  }

  abort(): void {
    const { post, controller } = this.world.random.draw(this.controllers)
    post.aborted = true
    controller.abort()
  }

  close(): void {
    if (!this.started) this.start()
    this.closing = true
    this.world.note(`${this.side} closes`)
    this.world.track(this, 'close()', this.channel.close())
  }

  destroy(): void {
    this.closing = true
    this.channel.destroy(this.world.random.chance(0.5) ? new Error('model') : undefined)
  }

  // --- consuming

  /** Begins to read in some way, or stops. */
  changeMode(mode: Mode): void {
    const { channel } = this
    if (this.mode === 'serve' || this.finished) return
    if (this.mode === 'iterate') {
      const iterator = this.#iterator!
      this.#iterator = undefined
      this.world.track(this, 'return()', iterator.return!())
    } else if (this.mode === 'listen') channel.removeAllListeners('message')
    this.mode = mode
    // What stops listening is noticed when the next message comes
    if (mode !== 'nobody' && mode !== 'listen' && !this.#free()) this.mode = 'nobody'
    if (this.mode === 'serve')
      channel.serve(message => this.#handle(message), {
        concurrency: this.world.random.integer(1, 4),
        ...(this.#patient ? { onError: () => {} } : {})
      })
    else if (this.mode === 'listen' && !this.#listen()) this.mode = 'nobody'
  }

  /** Whether one of the loops over the iterator is about to ask for the next message. */
  get asks(): boolean {
    return this.mode === 'iterate' && this.#asking < this.loops
  }

  ask(): void {
    const iterator = this.#iterator!
    this.#asking++
    this.world.track(this, 'next()', iterator.next(), result => {
      this.#asking--
      const { done, value } = result as IteratorResult<Message<any>>
      if (!done) return void this.#handle(value)
      if (iterator === this.#iterator && --this.loops === 0) {
        this.mode = 'nobody'
        this.finished = true
      }
      if (iterator === this.#iterator && sessionOf(this.channel).state !== 'ended')
        this.world.problem(`${this.side}: the iterator ended early`)
    })
  }

  /** Nothing of this end counts any more: its process is gone. */
  die(): void {
    this.dead = true
    this.world.ledger.end(this.side)
    this.socket.die()
  }

  #free(): boolean {
    try {
      if (this.mode === 'iterate') {
        this.#iterator = this.channel[Symbol.asyncIterator]()
        this.loops = this.world.random.chance(0.2) ? 2 : 1
      }
      return true
    } catch {
      return false
    }
  }

  #listen(): boolean {
    try {
      this.channel.on('message', message => void this.#handle(message))
      return true
    } catch {
      return false
    }
  }

  /** What serve's handler, a loop's body and a listener do with a message. */
  #handle: Handler<any> = message => {
    const { world } = this
    const { random } = world
    const post = this.arrived(message.value, message.descriptors, ['message', 'request'])
    if (post === undefined) return
    if (post.serial <= this.#lastSerial) world.problem(`${this.side}: ${post.serial} after ${this.#lastSerial}`)
    this.#lastSerial = post.serial
    if (message.isRequest !== (post.kind === 'request')) world.problem(`${post.serial} is no ${post.kind} any more`)
    if (message.isRequest && random.chance(0.3)) message.signal.addEventListener('abort', () => {})
    this.#use(message.descriptors)
    if (world.settings.profile === 'rough' && random.chance(0.01)) {
      world.broken = true
      this.destroy()
    }
    if (this.mode === 'serve') return this.#serve(message, post)
    if (!message.isRequest) return
    if (this.mode === 'iterate') {
      if (random.chance(0.6)) this.#respond(message, post)
      else if (random.chance(0.7)) {
        this.#claim(message)
        this.later('late answer', () => this.#respond(message, post))
      } // else it is put aside without an answer
    } else if (random.chance(0.5)) this.#respond(message, post)
    else this.later('late answer', () => this.#respond(message, post))
  }

  #serve(message: Message<any>, post: Post): unknown {
    const { random } = this.world
    const open = message.descriptors.filter(descriptor => !descriptor.closed)
    const later = <T>(run: () => T): Promise<T> =>
      new Promise((resolve, reject) =>
        this.later('handler settles', () => {
          if (open.some(each => each.closed && !this.pool.includes(each) && !this.#sent.has(each)))
            this.world.problem(`${post.serial}: a descriptor is closed while its handler runs`)
          try {
            resolve(run())
          } catch (error) {
            reject(error)
          }
        })
      )
    const fail = (): never => {
      if (!this.#patient) this.world.broken = this.world.unlawful = true
      throw Object.assign(new Error('the handler failed'), { code: 'E_MODEL' })
    }
    if (!message.isRequest)
      return random.weighted<() => unknown>([
        [5, () => undefined],
        [3, () => later(() => undefined)],
        [this.#patient ? 1 : 0.1, fail],
        [this.#patient ? 1 : 0.1, () => later(fail)]
      ])()
    return random.weighted<() => unknown>([
      [4, () => this.#result(post, message)],
      [4, () => later(() => this.#result(post, message))],
      [1, fail],
      [1, () => later(fail)],
      [1, () => () => 'a function'],
      [1, () => this.#respond(message, post)],
      [1, () => later(() => this.#respond(message, post))],
      [1, () => message[Symbol.dispose]()]
    ])()
  }

  /** A value to return from a handler: the channel takes what is in it. */
  #result(post: Post, message: Message<any>): unknown {
    const { ledger } = this.world
    const lent = message.descriptors.filter(each => !each.closed && ledger.holder(each.borrow()) === 'lent').slice(0, 1)
    const chosen = this.world.random.chance(0.3)
      ? lent
      : this.#gather(
          this.world.random.weighted([
            [5, 0],
            [3, 1],
            [1, 4]
          ])
        ) // prettier-ignore
    const reply = this.#post('reply', chosen, post)
    reply.given = true
    for (const descriptor of chosen) this.#sent.add(descriptor)
    this.world.move(reply, 'given')
    return reply.value
  }

  /** An explicit answer. */
  #respond(message: Message<any>, post: Post): undefined {
    const { random } = this.world
    if (random.chance(0.2)) {
      this.world.track(this, `fail ${post.serial}`, message.fail(Object.assign(new Error('no'), { code: 'E_MODEL' })))
      return
    }
    const reply = this.#post(
      'reply',
      this.#gather(
        random.weighted([
          [5, 0],
          [3, 1],
          [1, 4]
        ])
      ),
      post
    ) // prettier-ignore
    const promise = this.#attempt(reply, () => message.reply(reply.value))
    if (promise !== undefined) this.world.track(this, `reply ${reply.serial}`, promise)
    else this.world.track(this, `fail ${post.serial}`, message.fail(new Error('it could not be sent')))
  }

  #claim(message: Message<any>): void {
    const { ledger } = this.world
    for (const descriptor of message.descriptors)
      if (!descriptor.closed && ledger.holder(descriptor.borrow()) === 'lent') {
        ledger.pass(descriptor.borrow(), ['lent'], 'app', 'claim')
        this.#keep(descriptor)
      }
    message.claim()
  }

  /** Takes, closes or leaves what came. */
  #use(descriptors: readonly Descriptor[]): void {
    const { random, ledger } = this.world
    for (const descriptor of descriptors) {
      const choice = random.integer(0, 5)
      const fd = descriptor.borrow()
      if (choice === 0) {
        ledger.pass(fd, ['lent'], 'app', 'claim')
        this.#keep(descriptor.claim())
      } else if (choice === 1) descriptor.close()
      else if (choice === 2 && ledger.holder(fd) === 'lent') {
        descriptor.detach()
        ledger.pass(fd, ['released'], 'closed', 'detach')
      } else if (choice === 3 && random.chance(0.5)) this.#forward(descriptor)
    }
  }

  #forward(descriptor: Descriptor): void {
    const post = this.#post('message', [descriptor])
    const promise = this.#attempt(post, () => this.channel.send(post.value))
    if (promise !== undefined) this.world.track(this, `forward ${post.serial}`, promise)
  }

  #keep(descriptor: Descriptor): void {
    this.#seen.push(descriptor)
    this.pool.push(descriptor)
  }

  // --- what comes back

  /** Checks a value against what was sent: content, and each descriptor with its own name. */
  arrived(body: Body, descriptors: readonly Descriptor[], kinds: Post['kind'][]): Post | undefined {
    const { world } = this
    const { ledger } = world
    const post = world.posts.get(body?.n)
    if (post === undefined || !kinds.includes(post.kind) || post.from === this.side) {
      world.problem(`${this.side}: nobody sent ${JSON.stringify(body)?.slice(0, 100)}`)
      return undefined
    }
    if (post.delivered) world.problem(`${post.serial} arrives twice`)
    post.delivered = true
    checkPayload(body, post, text => world.problem(text))
    const named = body.f.map(({ d, o }) => {
      const object = ledger.object(d.borrow())
      if (object !== o) world.problem(`${post.serial}: file ${object} instead of ${o}`)
      return d
    })
    if (named.length !== post.fds.length) world.problem(`${post.serial}: ${named.length} descriptors`)
    if (post.kind === 'reply') return post
    for (const descriptor of named) {
      if (!descriptors.includes(descriptor)) world.problem(`${post.serial}: a descriptor that isn't listed`)
      ledger.pass(descriptor.borrow(), ['channel'], 'lent', 'arrival')
    }
    this.#seen.push(...named)
    return post
  }

  #answered(post: Post, reply: Body): void {
    const { world } = this
    post.outcome = 'answer'
    if (post.aborted) world.problem(`${post.serial} was given up and is answered`)
    if (reply === undefined || reply === null) return // the handler's result was undefined
    const answer = this.arrived(reply, [], ['reply'])
    if (answer === undefined) return
    if (answer.answers !== post) world.problem(`${post.serial} gets the answer to ${answer.answers?.serial}`)
    for (const { d } of reply.f) {
      world.ledger.pass(d.borrow(), ['channel'], 'app', 'a reply')
      this.#keep(d)
    }
  }

  #returned(returned: Returned<any>): void {
    const { world } = this
    if (this.dead) return
    const { ledger, random } = world
    const post = world.byValue.get(returned.value)
    if (post === undefined) {
      world.problem(`${this.side}: something unknown is returned`)
      return
    }
    world.note(`${this.side} gets ${post.serial} back: ${returned.state}`)
    if (this.#closeEvents > 0 && !post.late) world.problem(`${post.serial} is returned after 'close'`)
    if (post.returned !== undefined) world.problem(`${post.serial} is returned twice`)
    post.returned = returned.state
    this.#refused(post, returned.error)
    if (returned.descriptors.length !== post.fds.length) world.problem(`${post.serial}: not all are returned`)
    for (const [index, descriptor] of returned.descriptors.entries()) {
      if (descriptor.closed) {
        const behind = ledger.refusal(post.fds[index]!) === EBADF
        if (!behind || returned.error === undefined)
          world.problem(`${post.serial}: ${post.fds[index]} comes back closed`)
        continue
      }
      const fd = descriptor.borrow()
      if (returned.error !== undefined && ledger.refusal(fd) === EBADF)
        world.problem(`${post.serial}: ${fd} comes back open, and was closed by somebody else`)
      if (fd !== post.fds[index]) world.problem(`${post.serial}: ${fd} is returned for ${post.fds[index]}`)
      if (ledger.left(fd) !== (returned.state !== 'unsent'))
        if (returned.state !== 'refused')
          // What answered a cancelled request never leaves
          world.problem(`${post.serial}: ${fd} is said to be ${returned.state}`)
      ledger.pass(fd, ['channel', 'given'], 'lent', 'returned')
      const choice = random.integer(0, 4)
      if (choice === 0) {
        ledger.pass(fd, ['lent'], 'app', 'claim')
        this.#keep(descriptor.claim())
      } else if (choice === 1) descriptor.close()
      else if (choice === 2 && !post.late) this.#forward(descriptor)
    }
    const asked = post.answers
    if (returned.state === 'refused' && !asked?.aborted && asked?.outcome !== 'ERR_PASSFD_TIMEOUT')
      world.problem(`${post.serial} is refused, though nobody gave up`)
  }

  /** Only what the kernel refuses, or what has lost its bytes, comes back with an error. */
  #refused(post: Post, error: Error | undefined): void {
    if (error === undefined) return
    post.error = (error as { code?: string }).code ?? String(error)
    const unfit = post.early && UNFIT.has(post.error)
    if (post.returned !== 'unsent' || !(unfit || post.spoilt.has(post.error)))
      this.world.problem(`${post.serial} is returned as ${post.returned}: ${error}`)
    this.world.refused++
  }

  // --- helpers

  later(label: string, run: () => void): void {
    this.tasks.push({ label, run })
  }

  #gather(count: number): Descriptor[] {
    const { random, ledger } = this.world
    const open = (): number =>
      random.chance(this.world.settings.refused) ? ledger.openRing(this.side, 'app') : ledger.open(this.side, 'app')
    const chosen: Descriptor[] = []
    while (chosen.length < count) {
      const [first] = this.pool
      if (first === undefined) chosen.push(own(open()))
      else if (random.chance(0.7)) chosen.push(random.draw(this.pool))
      else if (random.chance(0.2) && ledger.refusal(first.borrow()) !== EBADF) chosen.push(first.dup())
      else chosen.push(own(open()))
    }
    return chosen
  }

  #post(kind: Post['kind'], descriptors: Descriptor[], answers?: Post): Post {
    const { world } = this
    const post = makeValue(world, this, kind, descriptors, answers)
    const { state } = sessionOf(this.channel)
    post.late = state === 'ended' || (kind !== 'reply' && state !== 'greeting' && state !== 'open')
    post.early = !this.open
    return post
  }

  /** Calls; if that throws, nothing may have moved. */
  #attempt<T>(post: Post, call: () => Promise<T>): Promise<T> | undefined {
    const { world } = this
    const { ledger } = world
    const before = post.fds.map(fd => ledger.holder(fd))
    for (const descriptor of post.descriptors) this.#sent.add(descriptor)
    world.move(post, 'channel')
    try {
      const promise = call()
      for (const descriptor of post.descriptors)
        if (!descriptor.closed && post.returned === undefined)
          world.problem(`${post.serial}: a descriptor did not move`)
      world.note(`${this.side} sends ${post.kind} ${post.serial} with ${post.fds.length}`)
      return promise
    } catch (error) {
      const { code } = error as { code: string }
      if (!MISUSE.has(code) || (code === 'ERR_PASSFD_CHANNEL_CLOSED' && !this.closing))
        world.problem(`${post.kind} ${post.serial}: ${error}`)
      world.posts.delete(post.serial)
      for (const [index, descriptor] of post.descriptors.entries()) {
        const fd = post.fds[index]!
        if (descriptor.closed || descriptor.borrow() !== fd) world.problem(`${post.serial}: ${code} has moved ${fd}`)
        ledger.pass(fd, ['channel'], before[index]!, 'misuse')
        if (before[index] === 'app') this.#keep(descriptor)
      }
      return undefined
    }
  }

  /** At the end of all: what is still the program's own, or what a process held that is gone. */
  cleanUp(): void {
    if (this.dead) for (const descriptor of this.#seen) descriptor[Symbol.dispose]()
    for (const descriptor of this.pool.splice(0)) descriptor[Symbol.dispose]()
  }
}

function noPidfd(): never {
  throw new Error('there is no process')
}
