import { loadWing } from '../helpers/wing.ts'

await loadWing('store')
