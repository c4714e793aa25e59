import { benchTest } from '../helpers/bench.ts'
import { message, Place, taken } from '../helpers/raw-peer.ts'

benchTest('our copies stay until all of their message are taken', {}, async (t, bench) => {
  const files = [bench.files(2), bench.files(1), bench.files(3)]
  const numbers = files.flat().map(file => file.borrow())
  for (const each of files) void bench.channel.send(each)
  await bench.settle()
  const open = (): number => numbers.filter(fd => bench.ledger.holder(fd) !== 'closed').length
  for (const [count, left] of [
    [1, 6],
    [0, 6],
    [1, 4],
    [2, 3],
    [1, 3],
    [1, 0]
  ] as const) {
    // prettier-ignore
    await bench.say(taken(count))
    t.is(open(), left)
  }
  t.is(bench.outcome, 'open')
})

benchTest('destroy() in a handler leaves the other handlers their descriptors', {}, async (t, bench) => {
  const { channel } = bench
  const open: boolean[] = []
  let finish!: () => void
  const finished = new Promise<void>(resolve => {
    finish = resolve
  })
  channel.serve(async ({ descriptors: [descriptor], value }) => {
    if ((value as unknown[])[0] === 'destroy') channel.destroy()
    await finished
    open.push(!descriptor!.closed)
  })
  const one = (text: string): Buffer => message([text, new Place(0)], 1)
  await bench.say([one('first'), one('destroy'), one('never read')], 3)
  finish()
  await bench.settle()
  t.deepEqual(open, [true, true])
})
