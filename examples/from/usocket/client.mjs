// client.mjs
import { text } from 'node:stream/consumers'
import { connect } from 'passfd/stream'

const stream = await connect('files.sock')
for await (const { bytes, descriptors } of stream.withDescriptors())
  console.log(`${bytes}: ${(await text(descriptors[0].toReadable())).trim()}`)
