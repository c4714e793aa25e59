/** `passfd store`: the store itself, in the foreground. */
import { Upgrades } from '../../prefork/launch/upgrade.ts'
import { openStore, type Store } from '../../store/index.ts'
import { takeoverStatus } from '../../takeover/index.ts'
import { CommandError, EXIT, ExitWith } from '../exit.ts'
import { type Level, writeReport } from '../report.ts'
import type { Ui } from '../ui.ts'
import { explained, type Given, type Settings, settingsOf } from './options.ts'
import { ownStorePath } from './place.ts'
import { ServiceReports, statusText } from './service.ts'

const SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const

type Tell = (event: string, level: Level, text: string, facts?: Record<string, unknown>) => void

/** Holds descriptors until a signal ends it, or another process has the store. */
export async function runStore(given: Given, ui: Ui, cwd = process.cwd()): Promise<void> {
  const settings = await settingsOf(given, cwd)
  const path = ownStorePath(settings.socket, ui.streams.env)
  const tell: Tell = (event, level, text, facts) =>
    writeReport(ui, { event, level, text, ...(facts === undefined ? {} : { facts }) }, ui.json)
  const stop = new AbortController()
  let signalNumber = 0
  // A second one ends it at once
  const forget = (): void => {
    for (const signal of SIGNALS) process.off(signal, onSignal)
  }
  const onSignal = (_: NodeJS.Signals, number: number): void => {
    signalNumber = number
    forget()
    stop.abort()
  }
  for (const signal of SIGNALS) process.on(signal, onSignal)
  try {
    const store = await open(path, settings, given.takeover === true, stop.signal)
    await run(store, path, given.takeover === true, stop.signal, tell)
  } catch (error) {
    // It was waiting for its predecessor
    if (stop.signal.aborted && (error as Error).name === 'AbortError') throw new ExitWith(128 + signalNumber)
    throw error
  } finally {
    forget()
  }
}

async function open(path: string, settings: Settings, mayReplace: boolean, signal: AbortSignal): Promise<Store> {
  const takeover = `${path}.takeover`
  if (!mayReplace) await checkFree(path, takeover)
  try {
    // Every store has a takeover path, so that each can be replaced
    return await openStore({ path, ...settings.file }, { ...settings.options, takeover, signal })
  } catch (error) {
    throw explained(error, settings)
  }
}

/** Throws (exit code 75) if a store runs there. */
async function checkFree(path: string, takeover: string): Promise<void> {
  const found = await takeoverStatus(takeover)
  if (found === undefined) return
  const remedy = `Replace it with --takeover, stop it with "kill ${found.owner.pid}", or choose another --socket`
  const what = `Process ${found.owner.pid} is the store at ${path} already`
  throw new CommandError(EXIT.temporary, what, remedy, { code: 'EADDRINUSE' })
}

async function run(store: Store, path: string, upgrades: boolean, signal: AbortSignal, tell: Tell): Promise<void> {
  const service = ServiceReports.begin(store, text => tell('service', 'warning', text.replace(/\.$/, '')))
  store.on('refused', ({ pid, uid }, { message }) =>
    tell('refused', 'warning', `Process ${pid} of user ${uid} was refused: ${message.replace(/\.$/, '')}`, { pid, uid })
  )
  store.on('report', ({ code, message }) => tell('takeover', 'warning', message.replace(/\.$/, ''), { code }))
  store.on('superseded', ({ pid }) => {
    service?.supersededBy(pid)
    if (process.pid === 1) {
      passSignals(`${path}.takeover`)
      // It came while the successor took over
      if (signal.aborted) pass(pid, 'SIGTERM')
    }
    tell('superseded', 'info', `Process ${pid} is the store now, with all that it held`, { successor: pid })
  })
  const onUpgrade = upgradeOn(store, upgrades, service, tell)
  const end = (): void => {
    if (store.superseded) return // it is about to end
    onUpgrade.stop()
    service?.stopping()
    tell('stopping', 'info', `The store ends, and closes what it holds: ${statusText(store)}`, { ...store.status })
    void store.close()
  }
  try {
    const from = store.predecessor === undefined ? '' : `, in the place of process ${store.predecessor.pid}`
    tell('started', 'info', `the store listens at ${path}, process ${process.pid}${from}: ${statusText(store)}`, {
      socket: path,
      pid: process.pid,
      ...(store.predecessor === undefined ? {} : { predecessor: store.predecessor.pid }),
      ...store.status
    })
    if (signal.aborted) end()
    else signal.addEventListener('abort', end)
    await store.ended
  } finally {
    signal.removeEventListener('abort', end)
    onUpgrade.end()
    await service?.end()
  }
}

/**
 * PID 1 of a container lives as long as its successors, because the kernel would end these with it (see passfd/takeover). From now on signals are for the
 * process that has the store.
 */
function passSignals(takeover: string): void {
  const passOn = async (signal: NodeJS.Signals): Promise<void> => {
    const found = await takeoverStatus(takeover).catch(() => undefined)
    if (found !== undefined) pass(found.owner.pid, signal)
  }
  for (const signal of [...SIGNALS, 'SIGUSR2'] as const) process.on(signal, name => void passOn(name))
}

function pass(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch {
    // It has ended
  }
}

/** USR2 starts the command line again. Without `--takeover` that one could not replace this one, and the signal must not end this one. */
function upgradeOn(
  store: Store,
  upgrades: boolean,
  service: ServiceReports | undefined,
  tell: Tell
): Pick<Upgrades, 'stop' | 'end'> {
  if (upgrades)
    return new Upgrades({
      sockets: () => [],
      isSuperseded: () => store.superseded,
      onBegin: () => service?.upgrading() ?? (() => {}),
      onFailure: (message, pid) =>
        tell('upgrade', 'error', message.replace(/\.$/, ''), pid === undefined ? {} : { pid })
    })
  const onSignal = (): void =>
    tell('upgrade', 'warning', 'USR2 starts a successor only if the command line has --takeover')
  process.on('SIGUSR2', onSignal)
  return { stop: () => {}, end: () => void process.off('SIGUSR2', onSignal) }
}
