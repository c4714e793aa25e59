// Ends when the sender has gone.
import { text } from 'node:stream/consumers'
import { listen } from 'passfd'

async function main() {
  const server = await listen('bundle.sock')
  console.log('waiting')
  server.serve(async ({ value, channel }) => {
    const contents = await text(value.file.toReadable())
    channel.once('close', () => server.close())
    return { contents, pid: process.pid }
  })
}

main()
