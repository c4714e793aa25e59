// In CI only: it starts a process for each call of the system that an opener makes.
import { execFileSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { isFull } from './helpers/full.ts'
import { temporaryPath } from './helpers/path.ts'
import { start } from './helpers/process.ts'
import { testInCi } from './helpers/test.ts'

const fixture = (name: string): string => fileURLToPath(new URL(`./fixtures/${name}`, import.meta.url))

/** A call that fails with the errno at its n-th time, for every call, every n and every opener: see failing-openers.mjs. */
testInCi(
  'an opener that fails at any call of the system or is given up at any moment, gives back every descriptor and its socket file',
  async t => {
    const library = temporaryPath('failing-calls.so')
    execFileSync('cc', ['-shared', '-fPIC', '-O1', '-Wall', '-o', library, fixture('failing-calls.c')])
    const order = temporaryPath('order')
    writeFileSync(order, Buffer.from(Int32Array.of(-1, ...Array<number>(23).fill(0)).buffer))
    const folder = temporaryPath('sockets')
    mkdirSync(folder)
    const preload = [process.env.LD_PRELOAD, library].filter(Boolean).join(':')
    const { child, exit } = start(process.execPath, [fixture('failing-openers.mjs'), folder, isFull ? 'all' : 'some'], {
      env: { ...process.env, LD_PRELOAD: preload, FAILING_CALLS: order }
    })
    let output = ''
    child.stdout!.on('data', text => {
      output += text
    })
    t.is((await exit).code, 0)
    const { hits, refused, aborted, problems } = JSON.parse(output)
    t.deepEqual(problems, [])
    t.true(hits > 150, `${hits} calls were made to fail`)
    t.true(refused > 100, `${refused} openers have failed with it`)
    t.true(aborted > 60, `${aborted} openers were given up`)
  }
)
