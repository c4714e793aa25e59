/** A Duplex whose listeners run in the async context in which it was made. */
import { Duplex } from 'node:stream'
import { AsyncContext, bound } from './async-context.ts'
import { bufferOf } from './bytes.ts'

/** Callbacks of `write` and `end` run in the context of that call, listeners in the one in which the stream was made. */
export class ContextDuplex extends Duplex {
  readonly #context = new AsyncContext('PASSFD_STREAM')

  override emit(event: string | symbol, ...args: any[]): boolean {
    // Node emits 'newListener' within the call that adds the listener
    if (this.listenerCount(event) === 0 || event === 'newListener' || event === 'removeListener')
      return super.emit(event, ...args)
    try {
      return this.#context.run(() => super.emit(event, ...args))
    } finally {
      if (event === 'close') this.#context.end()
    }
  }

  override write(chunk: any, callback?: (error: Error | null | undefined) => void): boolean
  override write(chunk: any, encoding: BufferEncoding, callback?: (error: Error | null | undefined) => void): boolean
  override write(chunk: any, ...rest: any[]): boolean {
    return super.write(asBuffer(chunk), ...(rest.map(boundIfFunction) as [BufferEncoding]))
  }

  override end(callback?: () => void): this
  override end(chunk: any, callback?: () => void): this
  override end(chunk: any, encoding?: BufferEncoding, callback?: () => void): this
  override end(...args: any[]): this {
    return super.end(...(args.map(argument => asBuffer(boundIfFunction(argument))) as [unknown]))
  }
}

/** Node uses a view's accessors, which its class or the program may have replaced. */
function asBuffer(chunk: unknown): unknown {
  return ArrayBuffer.isView(chunk) && !(chunk instanceof Buffer) ? bufferOf('chunk', chunk) : chunk
}

function boundIfFunction(argument: unknown): unknown {
  return typeof argument === 'function' ? bound(argument as () => void) : argument
}
