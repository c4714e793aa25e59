/** A view of `passfd top` for programs. */
import type { View } from './view.ts'

/** Rates are null as long as they are not known. */
export function jsonOf(target: string, { sample, rows, totals }: View): Record<string, unknown> {
  const { pid, phase, size, since, listeners, foreign, draining } = sample.status
  const { ready, requests, connections, cpu, rss, restarts } = totals
  return {
    time: new Date(sample.time).toISOString(),
    target,
    pid,
    phase,
    uptime: sample.time - since,
    size,
    foreign,
    listeners,
    draining,
    totals: {
      ready,
      connections,
      requestsPerSecond: rounded(requests),
      cpuPercent: rounded(cpu),
      rss,
      restarts
    },
    workers: rows.flatMap(({ worker, requests, cpu }) =>
      worker === undefined ? [] : { ...worker, requestsPerSecond: rounded(requests), cpuPercent: rounded(cpu) }
    )
  }
}

function rounded(value: number | undefined): number | null {
  return value === undefined ? null : Math.round(value * 100) / 100
}
