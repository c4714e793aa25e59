import { Descriptor } from '../../build/dist/index.js'

/** Ends what an opener gave, when it did not fail. */
export async function over(thing) {
  if (Array.isArray(thing)) for (const one of thing) await over(one)
  else if (thing?.readable instanceof Descriptor) await over([thing.readable, thing.writable])
  else if (thing instanceof Descriptor) thing[Symbol.dispose]()
  else if (thing?.destroy !== undefined && thing.close === undefined) {
    const closed = thing.closed instanceof Promise ? thing.closed : new Promise(done => thing.once('close', done))
    thing.destroy()
    await closed
  } else if (thing?.closed instanceof Promise) {
    if (thing.destroy !== undefined) thing.destroy()
    else await thing.close()
    await thing.closed
  } else if (typeof thing?.close === 'function')
    await new Promise(done => (thing.close.length > 0 || thing.listening ? thing.close(done) : done(thing.close())))
}
