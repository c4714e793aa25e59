// In CI only: it compiles the library and makes some hundred calls fail.
import { Spoiled, tryOne, withLibrary } from '../../../attack/faults/attack.ts'
import { testInCi } from '../../helpers/test.ts'

const PLENTY = 150

/** `npm run attack -- --only openers faults` has every error, and calls that fail again and again. */
testInCi(
  'an opener that fails at any call of the system reports its error, and gives back every descriptor and its socket file',
  async t => {
    const problems: string[] = []
    let hits = 0
    let refused = 0
    await withLibrary(async library => {
      const openers = new Spoiled('openers', library)
      try {
        await openers.start()
        const seen = new Set<string>()
        for (const fault of await openers.faults()) {
          const call = `${fault.variant}, ${fault.name} ${fault.first}`
          if (seen.has(call)) continue
          seen.add(call)
          await tryOne(openers, fault, {
            tell(what, more) {
              if (what === 'calls that failed') hits += more
              if (what === 'with an error') refused += more
            },
            found: each => problems.push(each)
          })
        }
      } finally {
        await openers.close()
      }
    })
    t.deepEqual(problems, [])
    t.true(hits > PLENTY, `${hits} calls were made to fail`)
    t.true(refused > 100, `${refused} openers have failed with it`)
  }
)
