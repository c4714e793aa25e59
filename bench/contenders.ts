/** How each contender is started. A new one is a file in peers/ and a line here. */
import { fileURLToPath } from 'node:url'
import type { Contender } from './measure.ts'
import {
  dgramMissing,
  floorMissing,
  floorProgram,
  loadMissing,
  loadProgram,
  nodeIpcMissing,
  pm2Missing,
  pythonMissing,
  usocketMissing,
  websocketsMissing,
  websocketsProgram
} from './missing.ts'

/** System calls and nothing else: floor.c, compiled when it is first asked for. */
export const floor = (...args: string[]): Contender => ({ command: [floorProgram, ...args], missing: floorMissing })

/** A program of peers/, by its name, and the workload it is to run. */
export const node = (name: string, workload: string): Contender => ({
  command: [process.execPath, path(`peers/${name}.mjs`), workload]
})

export const passfd = (workload: string): Contender => node('passfd', workload)
export const passfdMemory = (workload: string): Contender => node('passfd-memory', workload)
export const processSend = (workload: string): Contender => node('process-send', workload)
export const socketMsgpackr = (workload: string): Contender => node('socket-msgpackr', workload)
export const packrStream = (workload: string): Contender => node('packr-stream', workload)
export const messagePort = (workload: string): Contender => node('message-port', workload)
export const memory = (workload: string): Contender => node('memory', workload)
export const growth = (workload: string): Contender => node('growth', workload)
export const fairness = (workload: string): Contender => node('fairness', workload)
export const takeover = (workload: string): Contender => node('takeover', workload)
export const usocket = (workload: string): Contender => ({ ...node('usocket', workload), missing: usocketMissing })
export const nodeIpc = (workload: string): Contender => ({ ...node('node-ipc', workload), missing: nodeIpcMissing })
export const unixDgram = (workload: string): Contender => ({ ...node('unix-dgram', workload), missing: dgramMissing })
export const datagrams = (carrier: 'passfd' | 'passfd-by-name' | 'unix-dgram'): Contender => ({
  ...node('datagrams', `${carrier}:one-way`),
  ...(carrier === 'unix-dgram' ? { missing: dgramMissing } : {})
})
export const stream = (carrier: 'passfd' | 'socket'): Contender => node('stream', carrier)
export const take = (carrier: 'passfd' | 'process-send'): Contender => node('take', carrier)
export const store = (workload: 'copy' | 'channel'): Contender => node('store', workload)
export const python = (workload: string): Contender => ({
  command: ['python3', path('peers/python.py'), workload],
  missing: pythonMissing
})

/** One layer alone, by the name of its file in layers/: `records`, `plain` or `descriptor`. */
export const layer = (name: string, variant: string): Contender => ({
  command: [process.execPath, path(`layers/${name}.mjs`), variant]
})

/** Serves connections to load.c: a program of peers/, the variant of it, and what the load does. */
const serving =
  (name: string, variant: string) =>
  (mode: 'close' | 'keep-alive' | 'bare' | 'reload' | 'quiet' | 'idle', workers = 2): Contender => ({
    command: [process.execPath, path(`peers/${name}.mjs`), `${variant}:${mode}:${workers}`, 'near', loadProgram],
    missing: loadMissing
  })

export const preforkPerWorker = serving('passfd-prefork', 'per-worker')
export const preforkShared = serving('passfd-prefork', 'shared')
export const preforkDispatch = serving('passfd-prefork', 'dispatch')
/** `passfd serve`. */
export const underServe = serving('serve', 'passfd')
export const clusterRoundRobin = serving('cluster', 'round-robin')
export const clusterNone = serving('cluster', 'none')
export const oneProcess = serving('one-process', 'one')
/** The CPU time of a server for a request: of a worker without a supervisor, and of the same server without passfd. */
export const standaloneWorker = serving('standalone', 'passfd')
export const byItself = serving('one-process', 'price')
export const netServerSend = serving('net-server', 'passfd')
export const netServerProcessSend = serving('net-server', 'process-send')
export const pm2: ReturnType<typeof serving> = (mode, workers) => ({
  ...serving('pm2', 'cluster')(mode, workers),
  missing: () => loadMissing() ?? pm2Missing()
})

/** Echoes of ws, to websockets.c. */
export const websockets = (variant: 'passfd' | 'alone'): Contender => ({
  command: [process.execPath, path('peers/websockets.mjs'), `${variant}:websocket:1`, 'near', websocketsProgram],
  missing: websocketsMissing
})

function path(name: string): string {
  return fileURLToPath(new URL(name, import.meta.url))
}
