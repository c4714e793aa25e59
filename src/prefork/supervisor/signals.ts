/** Signals, with the meanings that other servers have made common. */
import { asError, type PassfdError } from '../../base/errors.ts'
import type { Commands } from './commands.ts'

/** Returns a function that stops listening. `onFailure` is called once for each failed change, however many signals have asked for it. */
export function obeySignals(supervisor: Commands, onFailure: (error: Error) => void): () => void {
  let told = false
  const failures = new WeakSet<Error>()
  const stop = (): void => {
    if (told && supervisor.phase === 'lame duck')
      void supervisor.stop() // the second call stops at once
    else void (told ? supervisor.kill() : supervisor.stop())
    told = true
  }
  /** A change that fails leaves the workers as they are. One that a stop has ended has not failed. */
  const attempt = (change: () => Promise<void>) => async (): Promise<void> => {
    try {
      await change()
    } catch (error) {
      const failure = asError(error)
      if ((failure as PassfdError).code === 'ERR_PASSFD_SUPERVISOR_STOPPED') return
      if (!failures.has(failure)) onFailure(failure)
      failures.add(failure)
    }
  }
  const reload = attempt(() => supervisor.reload())
  const reloadLater = (): void => {
    if (supervisor.phase !== 'new' && supervisor.phase !== 'starting') void reload()
    // Some workers may have read the old code
    else if (!supervisor.listeners('started').includes(reload)) supervisor.once('started', reload)
  }
  const handlers: Partial<Record<NodeJS.Signals, () => void>> = {
    SIGTERM: stop,
    SIGINT: stop,
    SIGQUIT: () => void supervisor.kill(),
    SIGHUP: reloadLater,
    SIGTTIN: attempt(() => supervisor.scale(supervisor.size + 1)),
    SIGTTOU: attempt(() => supervisor.scale(Math.max(1, supervisor.size - 1)))
  }
  for (const [signal, handler] of Object.entries(handlers)) process.on(signal as NodeJS.Signals, handler)
  return () => {
    for (const [signal, handler] of Object.entries(handlers)) process.off(signal as NodeJS.Signals, handler)
    supervisor.off('started', reload)
  }
}
