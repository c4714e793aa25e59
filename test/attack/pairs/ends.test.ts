import { Ends, problemsOf } from '../../../attack/pairs/ends.ts'
import { test } from '../../helpers/test.ts'

/** What is broken, and how a round reports it. */
const BREAKS: Record<string, RegExp> = {
  descriptor: /^near leaves open /,
  pipe: /^near: somebody holds the pipe of \d+$/,
  lost: /^near: nobody has received the pipe of \d+$/,
  number: /^near: the pipe of \d+ says "\d+\\n"$/,
  code: /^near: it fails without a code: Error: without a code/,
  exception: /^near: uncaught: Error: nobody catches this/,
  end: /^near: its process has ended with 7/
}

for (const [what, report] of Object.entries(BREAKS))
  test(`a round notices a broken promise: ${what}`, async t => {
    const ends = await Ends.start('../../../test/fixtures/attack-breaks', () => ({ BREAKS: what, PATIENCE: '200' }))
    const problems = problemsOf(await ends.round())
    await ends.close()
    t.true(
      problems.some(each => report.test(each)),
      problems.join('\n')
    )
  })
