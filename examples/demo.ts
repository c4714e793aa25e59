// Starts the receiver and the sender, two processes that know nothing of each other, and visits the port that moved.
//   npm start
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const folder = mkdtempSync(join(tmpdir(), 'passfd-demo-'))
const children: ChildProcess[] = []
try {
  const receiver = start('receiver')
  await receiver.says(/waits at/)
  const sender = start('sender')
  const [[, url]] = await Promise.all([receiver.says(/mine: (.+)/), sender.exit])
  console.log('demo: the sender has exited; I visit the port that it had opened')
  const response = await fetch(url as string)
  console.log(`demo: it answers "${await response.text()}"`)
  await receiver.exit
} finally {
  for (const child of children) child.kill() // if something went wrong; the others have ended
  rmSync(folder, { recursive: true })
}

function start(name: string) {
  const program = fileURLToPath(new URL(`${name}.ts`, import.meta.url))
  const args = [...process.execArgv, program, join(folder, 'demo.sock')]
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  children.push(child)
  const lines = createInterface(child.stdout).on('line', line => console.log(line))
  const exit = once(child, 'close').then(([code]) => {
    if (code !== 0) throw new Error(`the ${name} has failed with status ${code}`)
  })
  /** The next line that fits. */
  const says = (pattern: RegExp) =>
    new Promise<RegExpExecArray>((resolve, reject) => {
      lines.on('line', line => {
        const match = pattern.exec(line)
        if (match !== null) resolve(match)
      })
      exit.then(() => reject(new Error(`the ${name} has ended too early`)), reject)
    })
  return { exit, says }
}
