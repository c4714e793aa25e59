// child.mjs
import { connect, Descriptor } from 'passfd'

const channel = await connect(Descriptor.adopt(3))
for await (const { value } of channel)
  value.socket.toSocket().end(`${value.name} is served by process ${process.pid}\n`)
