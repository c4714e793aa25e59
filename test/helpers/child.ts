/** A fixture at the other end of a pair(): it inherits its end as descriptor 3. */
import { readFileSync } from 'node:fs'
import { type Channel, type ChannelOptions, pair } from '../../src/index.ts'
import { type Running, startFixture } from './process.ts'
import { until } from './test.ts'

/** Starts it and waits for its hello. What is `inherited` becomes descriptor 4 and so on there. */
export async function startOnPair(
  name: string,
  args: string[] = [],
  options: ChannelOptions<any> = {},
  ...inherited: number[]
): Promise<[Channel<any, any>, Running]> {
  const [channel, end] = pair<any, any>(options)
  const running = startFixture(name, args, { stdio: ['pipe', 'pipe', 'pipe', end.borrow(), ...inherited] })
  end.close()
  await until(() => channel.peer.agent !== '', `the hello of ${name}`)
  return [channel, running]
}

/** Stops it as a debugger would, and returns when it has stopped. */
export async function stop({ child }: Running): Promise<void> {
  child.kill('SIGSTOP')
  // The state follows the name, which stands in parentheses: proc_pid_stat(5)
  await until(() => readFileSync(`/proc/${child.pid}/stat`, 'utf8').includes(') T '), 'the child to stop')
}
