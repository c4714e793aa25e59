// In CI only: random schedules. The models find mistakes in the code that they attack.
import { MODELS } from '../../../attack/models/attack.ts'
import { explore } from '../../../attack/models/explore.ts'
import { MUTANTS } from '../../../attack/models/mutants.ts'
import { testInCi } from '../../helpers/test.ts'

for (const { model, what, make } of MUTANTS)
  testInCi(`the model of ${model} finds it if ${what}`, async t => {
    const undo = make()
    try {
      const until = performance.now() + 120_000
      const { found, schedules } = await explore(MODELS[model]!, { seed: 77, count: 4000, until })
      t.not(found, undefined, `${schedules} schedules`)
      t.log(`after ${schedules} schedules; ${found!.moves} moves: ${found!.problem}`)
    } finally {
      undo()
    }
  })
