// letter.mjs
import { writeFileSync } from 'node:fs'
import { text } from 'node:stream/consumers'
import { connect, Descriptor, listen } from 'passfd'

const [, , role, path] = process.argv

// An open file without a name, which holds this text
function fileOf(words) {
  const file = Descriptor.memfd('text')
  writeFileSync(`/proc/self/fd/${file.borrow()}`, words)
  return file
}

if (role === 'listen') {
  const server = await listen(path)
  console.log(`node: process ${process.pid} listens`)
  server.serve(async ({ value, channel }) => {
    const said = await text(value.file.toReadable())
    console.log(`node: ${channel.peer.agent.split('/')[0]} sent ${value.words}: ${said}`)
    channel.once('close', () => server.close())
    return fileOf(said.toUpperCase())
  })
} else {
  const channel = await connect(path)
  const answer = await channel.request({ words: 'a letter', file: fileOf('Written by Node.') })
  console.log(`node: ${channel.peer.agent.split('/')[0]} answers: ${await text(answer.toReadable())}`)
  await channel.close()
}
