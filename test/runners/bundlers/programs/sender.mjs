import { rmSync, writeFileSync } from 'node:fs'
import { connect, Descriptor } from 'passfd'

async function main() {
  writeFileSync('letter.txt', 'a letter')
  const file = await Descriptor.open('letter.txt')
  rmSync('letter.txt')
  const channel = await connect('bundle.sock')
  const { contents, pid } = await channel.request({ file })
  console.log(contents, pid === channel.peer.pid)
  await channel.close()
}

main()
