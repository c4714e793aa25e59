import { byItself, standaloneWorker } from '../contenders.ts'
import { CPU_RUNS, type Row } from '../measure.ts'

export default {
  what: 'CPU time of the same server for a request on one of 64 connections that are kept alive',
  unit: 'µs',
  better: 'less',
  placement: 'two cores',
  warmUp: 2400,
  runs: CPU_RUNS,
  ours: standaloneWorker('keep-alive', 1),
  peers: { 'listening by itself': byItself('keep-alive', 1) },
  targets: { 'listening by itself': 1.01 }
} satisfies Row
