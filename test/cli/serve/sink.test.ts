/** Where lines are written: none is lost at the end. */
import { Sink, type Target } from '../../../src/cli/serve/sink.ts'
import { test } from '../../helpers/test.ts'

test('a line that comes just when the sink has written all before is written, too, though the sink is then closed', async t => {
  for (let ticks = 0; ticks < 12; ticks++) {
    const written: string[] = []
    let begun: () => void = () => {}
    const first = new Promise<void>(resolve => {
      begun = resolve
    })
    const target: Target = {
      write: async chunks => {
        begun()
        for (const chunk of chunks) written.push(chunk.toString())
        return Buffer.concat(chunks).length
      },
      close: async () => {}
    }
    const sink = new Sink(target, true, { onQueued: () => {}, onTrouble: () => t.fail() })
    sink.write(Buffer.from('one\n'))
    await first
    for (let tick = 0; tick < ticks; tick++) await null
    sink.write(Buffer.from('last\n'))
    t.is(await sink.close(), 0, `${ticks}`)
    t.is(written.join(''), 'one\nlast\n', `${ticks}`)
  }
})
