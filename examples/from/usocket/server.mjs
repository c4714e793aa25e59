// server.mjs
import { writeFileSync } from 'node:fs'
import { Descriptor } from 'passfd'
import { listen } from 'passfd/stream'

writeFileSync('letter.txt', 'Dear reader\n')
const server = await listen('files.sock')
console.log('waits')
for await (const stream of server) {
  stream.writeWithDescriptors('a letter', [await Descriptor.open('letter.txt')])
  stream.end()
  stream.once('close', () => server.close()).resume()
}
