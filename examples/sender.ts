// Opens a file and a listening socket, gives both to another process, and exits.
//   node --import tsx examples/sender.ts /tmp/x.sock
import { rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect, Descriptor } from 'passfd'

const channel = await connect(process.argv[2] ?? 'demo.sock')

const path = join(tmpdir(), `passfd-letter-${process.pid}.txt`)
writeFileSync(path, 'I was deleted before you opened me.\n')
const file = await Descriptor.open(path)
rmSync(path)
console.log(`sender: process ${process.pid} has opened a file and deleted it from the disk`)

const listener = await Descriptor.bind({ host: '127.0.0.1', port: 0 })
console.log('sender: it listens on a free TCP port, and accepts nobody')

channel.send({ words: 'These are yours now.', file, listener })
await channel.close() // resolves when the receiver has taken both
console.log(`sender: process ${channel.peer.pid} has taken both, so this one exits`)
