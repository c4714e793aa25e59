// Receives an open file and a listening socket from another process, and uses both.
//   node --import tsx examples/receiver.ts /tmp/x.sock
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { Descriptor, listen } from 'passfd'

const server = await listen<{ words: string; file: Descriptor; listener?: Descriptor }>(process.argv[2] ?? 'demo.sock')
console.log(`receiver: process ${process.pid} waits at ${server.address}`)

server.serve(async ({ value: { words, file, listener }, channel: { peer }, isRequest }) => {
  console.log(`receiver: process ${peer.pid} of user ${peer.uid} says "${words}"`)
  const contents = await text(file.toReadable())
  console.log(`receiver: its file says "${contents.trim()}"`)
  if (listener !== undefined) answerOneVisitor(listener)
  if (isRequest) return shout(contents) // the answer; here a descriptor
})

// It has one guest, and ends when the guest has left and a visitor was answered
server.once('channel', channel => channel.once('close', () => server.close()))

function answerOneVisitor(listener: Descriptor): void {
  const http = createServer((_, response) => {
    response.writeHead(200, { connection: 'close' }).end(`You have reached process ${process.pid}.`)
    http.close()
  })
  http.listen(listener.toListenHandle(), () => {
    console.log(`receiver: its listener is mine: http://127.0.0.1:${(http.address() as AddressInfo).port}/`)
  })
}

function shout(contents: string): Descriptor {
  const { readable, writable } = Descriptor.pipe()
  writable.toWritable().end(contents.toUpperCase())
  return readable
}
