// A supervisor's program needs a file of the package, which is not in a bundle.
import { Supervisor } from 'passfd/prefork'

async function main() {
  const supervisor = new Supervisor({ program: ['node', '../served.cjs'], workers: 1, listeners: {} })
  await supervisor.start()
  console.log('served at', Object.keys(supervisor.addresses).length)
  await supervisor.stop()
}

main().catch(({ code, message }) => console.log(code, message))
