/** The end of the terminal in which a server was started. */
import { isatty } from 'node:tty'

const STANDARD = [0, 1, 2]

/**
 * Calls `stop` at a SIGHUP that means that the terminal of this process was closed, because nobody could see or end the server any more. Any other
 * SIGHUP means a reload. Call it before the supervisor listens for signals. Returns a function that stops listening.
 */
export function onHangup(stop: () => void, isTerminal = isatty): () => void {
  const terminals = STANDARD.filter(isTerminal)
  const onSignal = (): void => {
    // A terminal that was hung up is none any more (tty_ioctl(2): EIO)
    if (terminals.length > 0 && !terminals.some(isTerminal)) stop()
  }
  process.prependListener('SIGHUP', onSignal)
  return () => void process.off('SIGHUP', onSignal)
}
