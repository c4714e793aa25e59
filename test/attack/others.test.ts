// In CI only: it runs samples of attacks.
import { testSamples } from './sample.ts'

testSamples('others')
