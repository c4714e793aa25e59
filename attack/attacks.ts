/** All attacks, by the names that `npm run attack` takes. */
import type { Attack } from './attack.ts'
import { bombs } from './bombs/attack.ts'
import { chaos } from './chaos/attack.ts'
import { faults } from './faults/attack.ts'
import { flat } from './flat/attack.ts'
import { fuzz } from './fuzz/attack.ts'
import { hostile } from './hostile/attack.ts'
import { kills } from './kills/attack.ts'
import { limits } from './limits/attack.ts'
import { models } from './models/attack.ts'
import { soak } from './soak/attack.ts'
import { steps } from './steps/attack.ts'
import { suites } from './suites/attack.ts'
import { threads } from './threads/attack.ts'
import { waist } from './waist/attack.ts'

export const ATTACKS: Record<string, Attack> = {
  bombs,
  chaos,
  faults,
  flat,
  fuzz,
  hostile,
  kills,
  limits,
  models,
  soak,
  steps,
  suites,
  threads,
  waist
}
