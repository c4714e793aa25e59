/** Stores and clients of stores in other processes. */
import { fstatSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { assertOpen, type Descriptor } from '../../src/descriptor/descriptor.ts'
import { type Running, start, startFixture } from './process.ts'
import { systemPython } from './programs.ts'

/** A store in a process of its own, which a later one at the same path replaces. */
export class Holder {
  readonly running: Running

  private constructor(running: Running) {
    this.running = running
  }

  static async open(path: string, options: object = {}, mode = 0o600): Promise<Holder> {
    const holder = new Holder(startFixture('store-holder', [path, JSON.stringify(options), `${mode}`]))
    await holder.says('open')
    return holder
  }

  get pid(): number {
    return this.running.child.pid!
  }

  async says(line: string): Promise<void> {
    const said = await this.running.line()
    if (said !== line) throw new Error(`the store says ${said}, not ${line}`)
  }

  /** Starts its successor, and waits until this one has ended. */
  async replace(path: string): Promise<Holder> {
    const successor = await Holder.open(path)
    await this.says('superseded')
    await this.ended()
    return successor
  }

  async kill(): Promise<void> {
    this.running.child.kill('SIGKILL')
    await this.ended()
  }

  async close(): Promise<void> {
    this.running.child.stdin!.end()
    await this.ended()
  }

  async ended(): Promise<void> {
    const { code, stderr } = await this.running.exit
    if (code !== 0 && code !== null) throw new Error(`the store has ended with ${code}: ${stderr}`)
  }
}

export type Identity = [dev: number, inode: number]

/** Which open file it is. */
export function identity(descriptor: Descriptor): Identity {
  const { dev, ino } = fstatSync(assertOpen(descriptor))
  return [dev, ino]
}

export interface PythonAnswer {
  is?: any
  code?: string
  data?: any
  /** Of traffic that goes on. */
  at?: number
}

/** A client in Python: test/fixtures/store_driver.py. */
export class PythonClient {
  readonly running: Running

  constructor(path: string, options: { uid?: number; gid?: number; patience?: number } = {}) {
    const { patience = 30, ...spawn } = options
    const driver = fileURLToPath(new URL('../fixtures/store_driver.py', import.meta.url))
    this.running = start(systemPython, [driver, path, `${patience}`], spawn)
  }

  get pid(): number {
    return this.running.child.pid!
  }

  /** Asks for something without waiting for the answer. */
  ask(command: object): void {
    this.running.child.stdin!.write(`${JSON.stringify(command)}\n`)
  }

  async answer(): Promise<PythonAnswer> {
    return JSON.parse(await this.running.line())
  }

  async do(command: object): Promise<any> {
    this.ask(command)
    const { is, code } = await this.answer()
    if (code !== undefined) throw new Error(code)
    return is
  }

  /** The failure of what it is asked for. */
  async fails(command: object): Promise<PythonAnswer> {
    this.ask(command)
    return this.answer()
  }

  async close(): Promise<void> {
    this.running.child.stdin!.end()
    const { code, stderr } = await this.running.exit
    if (code !== 0) throw new Error(`Python has ended with ${code}: ${stderr}`)
  }

  async kill(): Promise<void> {
    this.running.child.kill('SIGKILL')
    await this.running.exit
  }
}
