import { together } from './test.ts'
import { membersOf } from './test-files.ts'

/**
 * Loads the test files of a folder of test/ into this process: each process costs a third of a second of a core to start ava and to import
 * what it tests. The titles begin with the names of the files.
 */
export async function loadWing(wing: string): Promise<void> {
  await together(membersOf(wing), name => import(`../${wing}/${name}.test.ts`))
}
