/** What `passfd` runs. */
import { EXIT, failureOf } from './exit.ts'
import { main } from './main.ts'

// Without a listener an error would end a server, too, whose messages find no room on the disk. The streams can be written again.
process.stderr.on('error', () => {})
let isReported = false
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  // `passfd … | head`: what reads the output has ended. Commands that would write for ever end by themselves
  if (error.code === 'EPIPE') return
  process.exitCode ||= EXIT.io
  if (!isReported) process.stderr.write(`passfd: stdout: ${failureOf(error).message}\n`)
  isReported = true
})
// PID 1 of a container gets no signal of its own, and ends by the exit code
process.exitCode = await main(process.argv.slice(2), process, undefined, signal => process.kill(process.pid, signal))
