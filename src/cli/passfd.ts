/** What `passfd` runs. */
import { main } from './main.ts'

// `passfd … | head`: what reads the output has ended. Commands that would write for ever end by themselves
for (const stream of [process.stdout, process.stderr])
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error
  })
process.exitCode = await main(process.argv.slice(2))
