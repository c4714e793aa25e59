/** The end of the terminal in which a server was started. */
import { isatty } from 'node:tty'

const STANDARD = [0, 1, 2]
/** The signal may come before the end of the terminal: a window signals its shell before it closes, and the shell its jobs. So it looks again, in ms. */
const AGAIN = 50
const FOR = 3000

/**
 * Calls `stop` at a SIGHUP that means that the terminal of this process was closed, because nobody could see or end the server any more. Any other
 * SIGHUP means a reload. Call it before the supervisor listens for signals. Returns a function that stops listening.
 */
export function onHangup(stop: () => void, isTerminal = isatty): () => void {
  const terminals = STANDARD.filter(isTerminal)
  let timer: NodeJS.Timeout | undefined
  // A terminal that was hung up is none any more (tty_ioctl(2): EIO)
  const isGone = (): boolean => !terminals.some(isTerminal)
  const ignore = (): void => {
    clearInterval(timer)
    process.off('SIGHUP', onSignal)
  }
  const onSignal = (): void => {
    clearInterval(timer)
    if (terminals.length === 0) return
    if (isGone()) {
      stop()
      return
    }
    const deadline = performance.now() + FOR
    timer = setInterval(() => {
      if (isGone()) {
        clearInterval(timer)
        stop()
      } else if (performance.now() > deadline) clearInterval(timer)
    }, AGAIN).unref()
  }
  process.prependListener('SIGHUP', onSignal)
  return ignore
}
