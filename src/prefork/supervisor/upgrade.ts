/** USR2: the command line of this process again, as its successor. */
import { asError } from '../../base/errors.ts'
import { Descriptor } from '../../descriptor/descriptor.ts'
import { Watcher } from '../../os/loop.ts'
import { launchAgain } from '../launch/launch.ts'

export interface Upgraded {
  /** Returns the sockets that the service manager has given. */
  sockets(): readonly { readonly name: string; readonly fd: number }[]
  isSuperseded(): boolean
  /** A successor is about to be started. Returns a function to be called if it fails. */
  onBegin(): () => void
  /** The successor could not be started, or has ended before it served. A sentence. */
  onFailure(message: string, pid: number | undefined): void
}

/** Starts a successor at each SIGUSR2, unless one is starting. Returns a function that stops listening; a successor that is starting goes on. */
export function upgradeOnSignal(program: Upgraded): () => void {
  let isStarting = false
  let forget = (): void => {}
  let failed = (): void => {}
  const over = (what: string, pid?: number): void => {
    forget()
    isStarting = false
    if (program.isSuperseded()) return
    failed()
    program.onFailure(`${what}. This process goes on.`, pid)
  }
  const start = async (): Promise<void> => {
    if (isStarting || program.isSuperseded()) return
    isStarting = true
    failed = program.onBegin()
    let pid: number | undefined
    try {
      pid = await launchAgain(program.sockets())
      forget = onEnd(pid, () => over(`The successor, process ${pid}, has ended before it served`, pid))
    } catch (error) {
      over(`The successor could not be started, or has ended at once: ${asError(error).message}`, pid)
    }
  }
  const onSignal = (): void => void start()
  process.on('SIGUSR2', onSignal)
  return () => {
    process.off('SIGUSR2', onSignal)
    forget()
  }
}

/** Calls `ended` when the process, which is no child, has ended. Returns a function that stops waiting. Throws ESRCH if it has. */
function onEnd(pid: number, ended: () => void): () => void {
  const pidfd = Descriptor.pidfd(pid)
  const watcher = new Watcher(pidfd.borrow(), ended)
  watcher.unref()
  return () => {
    if (pidfd.closed) return
    watcher.end()
    pidfd.close()
  }
}
