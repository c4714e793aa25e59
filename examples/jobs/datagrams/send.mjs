// send.mjs
import { Descriptor } from 'passfd'
import { connect } from 'passfd/datagram'

const log = await connect('log.sock')
await log.send('the disk is full')
await log.send('here is the dump', { descriptors: [await Descriptor.open('/etc/hostname')] })
await log.close()
