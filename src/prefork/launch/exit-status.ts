/** How a process ended, in words. */
import { constants } from 'node:os'

/**
 * Describes a child's 'exit' event, as the end of a sentence: "exited with code 3", "was killed by SIGSEGV (Segmentation fault)".
 * It explains the exit codes of Node (documentation of `process`, Exit codes) and of a shell.
 */
export function exitReason(code: number | null, signal: NodeJS.Signals | null): string {
  if (signal !== null) return `was killed by ${described(signal)}`
  if (code === null) return 'ended, and how is not known'
  const meaning = meaningOf(code)
  return `exited with code ${code}${meaning === undefined ? '' : ` (${meaning})`}`
}

/** Whether a process has ended by a signal that asks for a graceful stop, or by the exit code with which shells and many programs report that. */
export function isStop({ code, signal }: { code: number | null; signal: NodeJS.Signals | null }): boolean {
  return STOPS.includes(signal ?? code)
}

const STOPS: readonly unknown[] = ['SIGTERM', 'SIGINT', 128 + constants.signals.SIGTERM, 128 + constants.signals.SIGINT]

/** Exit codes that Node uses while a program runs, and those of a shell. Each program gives lower codes a meaning of its own. */
const MEANINGS: Record<number, string> = {
  5: 'in Node: a fatal error of V8',
  7: "in Node: an 'uncaughtException' handler failed itself",
  9: 'in Node: an option that it does not know or allow, see execArgv',
  12: 'in Node: the --inspect port is taken or wrong',
  13: 'in Node: a top-level await was still waiting and nothing was left that could settle it',
  14: 'in Node: no startup snapshot could be made',
  126: 'from a shell: the program was found and can not be executed',
  127: 'from a shell: the program was not found'
}

function meaningOf(code: number): string | undefined {
  if (code <= 128) return MEANINGS[code]
  const name = Object.entries(constants.signals).find(([, number]) => number === code - 128)?.[0]
  if (name === undefined) return undefined
  return `from a shell or another program in between: killed by ${described(name)}`
}

function described(signal: string): string {
  const text = TEXTS[signal]
  return text === undefined ? signal : `${signal} (${text})`
}

/** The texts of strsignal(3). */
const TEXTS: Record<string, string> = {
  SIGHUP: 'Hangup',
  SIGINT: 'Interrupt',
  SIGQUIT: 'Quit',
  SIGILL: 'Illegal instruction',
  SIGTRAP: 'Trace/breakpoint trap',
  SIGABRT: 'Aborted',
  SIGIOT: 'Aborted',
  SIGBUS: 'Bus error',
  SIGFPE: 'Floating point exception',
  SIGKILL: 'Killed',
  SIGUSR1: 'User defined signal 1',
  SIGSEGV: 'Segmentation fault',
  SIGUSR2: 'User defined signal 2',
  SIGPIPE: 'Broken pipe',
  SIGALRM: 'Alarm clock',
  SIGTERM: 'Terminated',
  SIGSTKFLT: 'Stack fault',
  SIGCHLD: 'Child exited',
  SIGCONT: 'Continued',
  SIGSTOP: 'Stopped (signal)',
  SIGTSTP: 'Stopped',
  SIGTTIN: 'Stopped (tty input)',
  SIGTTOU: 'Stopped (tty output)',
  SIGURG: 'Urgent I/O condition',
  SIGXCPU: 'CPU time limit exceeded',
  SIGXFSZ: 'File size limit exceeded',
  SIGVTALRM: 'Virtual timer expired',
  SIGPROF: 'Profiling timer expired',
  SIGWINCH: 'Window changed',
  SIGIO: 'I/O possible',
  SIGPOLL: 'I/O possible',
  SIGPWR: 'Power failure',
  SIGSYS: 'Bad system call',
  SIGUNUSED: 'Bad system call' // musl's second name of SIGSYS
}
