/** The supervisor's end of systemd's notification protocol (sd_notify(3)): workers in any language report by it that they are ready. */
import { bind } from '../datagram/open.ts'
import type { DatagramSocket } from '../datagram/socket.ts'
import { MAX_NOTIFICATION, parseNotification } from './notification.ts'

export type NotificationListener = (fields: ReadonlyMap<string, string>) => void

/** Fields for what only systemd can do: another main process, a store of descriptors. passfd closes the descriptors that come with them, which ends the wait of BARRIER. */
const NOT_OURS = ['MAINPID', 'MAINPIDFDID', 'FDSTORE', 'FDSTOREREMOVE', 'FDNAME', 'FDPOLL', 'BARRIER', 'NOTIFYACCESS']

/**
 * A datagram socket with a random abstract name, for the environment variable NOTIFY_SOCKET. An abstract name has no permissions, so it accepts a
 * message only if the kernel reports a watched process as the sender (SO_PASSCRED, unix(7)), whatever its user. It does not keep the
 * process running.
 */
export class NotifySocket implements AsyncDisposable {
  /** '@' and the name, as sd_notify(3) wants it in NOTIFY_SOCKET. */
  readonly address: string
  readonly #socket: DatagramSocket
  readonly #listeners: Map<number, NotificationListener>

  private constructor(socket: DatagramSocket, listeners: Map<number, NotificationListener>) {
    this.#socket = socket
    this.#listeners = listeners
    this.address = `@${(socket.address as { abstract: string }).abstract}`
    socket.on('message', ({ data, sender }) => {
      const fields = parseNotification(data)
      for (const name of NOT_OURS) fields.delete(name)
      if (fields.size > 0) this.#listeners.get(sender!.pid)?.(fields)
    })
  }

  /** Rejects with the system's error (EMFILE, …). */
  static async open(): Promise<NotifySocket> {
    const listeners = new Map<number, NotificationListener>()
    const socket = await bind(undefined, {
      maxMessage: MAX_NOTIFICATION,
      authorize: sender => sender !== undefined && listeners.has(sender.pid)
    })
    return new NotifySocket(socket.unref(), listeners)
  }

  /**
   * Calls the listener with READY, RELOADING, STOPPING, STATUS, ERRNO, WATCHDOG, WATCHDOG_USEC and all other fields that this process sends,
   * until `unwatch`. Call it in the turn in which the process was started: notifications of unwatched processes are dropped.
   */
  watch(pid: number, listener: NotificationListener): void {
    this.#listeners.set(pid, listener)
  }

  /** Call it when the process has ended, because another process may get its pid. */
  unwatch(pid: number): void {
    this.#listeners.delete(pid)
  }

  async close(): Promise<void> {
    this.#listeners.clear()
    await this.#socket.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}
