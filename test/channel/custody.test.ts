import { benchTest } from '../helpers/bench.ts'
import { file, patched } from '../helpers/channels.ts'
import { deafPair, message, Place, taken } from '../helpers/raw-peer.ts'
import { test, until } from '../helpers/test.ts'

const MESSAGE = 1

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

for (const end of ['', 'a violation', 'destroy()'] as const)
  test(`copies that several confirmations of one read have freed are closed together${end === '' ? '' : `, also before ${end}`}`, async t => {
    const { channel, peer } = await deafPair<any, any>()
    for (let i = 0; i < 5; i++) void channel.send(file())
    await peer.start().next(MESSAGE)
    const batches: number[] = []
    const confirmations = [taken(1), taken(1), taken(2), taken(1)]
    if (end === 'a violation') confirmations.push(taken(9))
    if (end === 'destroy()') channel.on('message', () => channel.destroy())
    await patched(
      'closeLater',
      original => (fds, start, count, tag) => {
        batches.push(count)
        return original(fds, start, count, tag)
      },
      async () => {
        peer.send(Buffer.concat([...confirmations, message('last')]))
        if (end === '') await until(() => batches.length > 0, 'the closes')
        else await channel.closed
      }
    )
    t.is(batches[0], 5)
    channel.destroy()
    await channel.closed
    peer.close()
  })
