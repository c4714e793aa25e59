/** The public types of prefork. Nothing of `assertions` runs: test/types.test.ts compiles this file. */

import type { EventEmitter } from 'node:events'
import type * as http from 'node:http'
import type * as http2 from 'node:http2'
import type { Server } from 'node:net'
import type * as tls from 'node:tls'
import { expectTypeOf } from 'expect-type'
import type { BindSpec, Channel, ChannelOptions, Descriptor, Failure, ListenHandle } from '../../src/index.ts'
import {
  type AdminCommand,
  type Balance,
  joinSupervisor,
  type Route,
  type Routed,
  restartPolicy,
  Supervisor,
  type SupervisorEvents,
  type SupervisorOptions,
  type Worker,
  type WorkerInfo,
  type WorkerState
} from '../../src/prefork/index.ts'

async function assertions(): Promise<void> {
  const listeners = { http: { port: 3000 }, admin: { path: '/run/app.sock' } }
  const supervisor = new Supervisor({ entry: new URL('./worker.js', import.meta.url), workers: 4, listeners })
  expectTypeOf(supervisor).toExtend<EventEmitter<SupervisorEvents>>()
  expectTypeOf(supervisor).toExtend<AsyncDisposable>()
  for (const method of ['start', 'reload', 'stop', 'kill'] as const)
    expectTypeOf(supervisor[method]).toEqualTypeOf<() => Promise<void>>()
  expectTypeOf(supervisor.scale).toEqualTypeOf<(workers: number) => Promise<void>>()
  expectTypeOf(supervisor.run).toExtend<(options?: { signals?: boolean }) => Promise<void>>()
  expectTypeOf(supervisor.metrics()).resolves.toBeString()
  expectTypeOf(supervisor.workers).toEqualTypeOf<readonly WorkerInfo[]>()
  // @ts-expect-error a snapshot
  supervisor.workers = []
  // @ts-expect-error a snapshot
  supervisor.workers[0]!.state = 'ready'
  // @ts-expect-error by scale()
  supervisor.size = 4
  supervisor.on('exit', (worker, code, signal) => {
    expectTypeOf(worker).toEqualTypeOf<WorkerInfo>()
    expectTypeOf(code).toEqualTypeOf<number | null>()
    expectTypeOf(signal).toEqualTypeOf<NodeJS.Signals | null>()
  })
  supervisor.on('line', (worker, stream, line) => {
    expectTypeOf(worker).toEqualTypeOf<WorkerInfo>()
    expectTypeOf(stream).toEqualTypeOf<'stdout' | 'stderr'>()
    expectTypeOf(line).toEqualTypeOf<Buffer>()
  })
  supervisor.on('gaveUp', error => expectTypeOf(error).toEqualTypeOf<Failure>())
  // No event kills when nobody listens
  expectTypeOf<SupervisorEvents>().not.toHaveProperty('error')
  expectTypeOf<WorkerState>().toEqualTypeOf<'starting' | 'ready' | 'stopping' | 'hung' | 'exited'>()
  expectTypeOf<WorkerInfo['pid']>().toEqualTypeOf<number | undefined>()
  expectTypeOf<WorkerInfo['channel']>().toEqualTypeOf<Channel>()

  // Options
  expectTypeOf<SupervisorOptions['listeners']>().toEqualTypeOf<Record<string, BindSpec>>()
  expectTypeOf<SupervisorOptions['channel']>().toEqualTypeOf<ChannelOptions | undefined>()
  new Supervisor({ command: ['python3', 'worker.py'], listeners, spawn: { cwd: '/', env: { A: 'b' }, uid: 1, gid: 1 } })
  new Supervisor({ entry: 'worker.js', listeners, restart: restartPolicy({ maxBootFailures: 0 }) })
  new Supervisor({ entry: 'worker.js', listeners, restart: deaths => ({ restart: true, delay: deaths.length }) })
  new Supervisor({ entry: 'worker.js', listeners, spawn: { stdio: 'lines' } })
  // @ts-expect-error what it gives up for has a reason
  new Supervisor({ entry: 'worker.js', listeners, restart: () => ({ restart: false }) })
  // @ts-expect-error the program comes first
  new Supervisor({ command: [], listeners })
  // @ts-expect-error without listeners there is nothing to serve
  new Supervisor({ entry: 'worker.js' })
  const route: Route = ({ head, ended, listener, remoteAddress }, workers) => {
    expectTypeOf(head).toEqualTypeOf<Buffer>()
    expectTypeOf(ended).toBeBoolean()
    expectTypeOf(listener).toBeString()
    expectTypeOf(remoteAddress).toEqualTypeOf<string | undefined>()
    return head.length < 4 && !ended ? 'more' : workers[0]?.slot
  }
  expectTypeOf<Parameters<Route>>().toEqualTypeOf<[connection: Routed, workers: readonly WorkerInfo[]]>()
  expectTypeOf({ dispatch: route, maxHead: 1024, headTimeout: 100 }).toExtend<Balance>()
  expectTypeOf<{ dispatch: 'random' }>().not.toExtend<Balance>()
  expectTypeOf<{ command: 'scale' }>().not.toExtend<AdminCommand>()

  // Workers
  const worker = await joinSupervisor({ standalone: listeners, signals: false, channel: { requestTimeout: 100 } })
  expectTypeOf(worker).toEqualTypeOf<Worker>()
  expectTypeOf(worker.listen).parameters.toEqualTypeOf<[name: string, server: Server]>()
  // What people have
  expectTypeOf<http.Server | tls.Server | http2.Http2Server | http2.Http2SecureServer>().toExtend<Server>()
  expectTypeOf(worker.listener('http')).toEqualTypeOf<ListenHandle>()
  expectTypeOf(worker.descriptor('http')).toEqualTypeOf<Descriptor>()
  worker.onStop(({ signal }) => expectTypeOf(signal).toEqualTypeOf<AbortSignal>())
  worker.onStop(() => 5)
  expectTypeOf(worker.channel).toEqualTypeOf<Channel>()
  expectTypeOf(worker.signal).toEqualTypeOf<AbortSignal>()
  expectTypeOf(worker.ready()).resolves.toBeVoid()
  expectTypeOf([worker.slot, worker.id]).toEqualTypeOf<number[]>()
}

void assertions
