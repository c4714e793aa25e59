/** Mistakes in the code of passfd, each made by replacing one method, that the models must find. */
import { Socket } from 'node:net'
import { Custody } from '../../src/channel/custody.ts'
import { SocketWire } from '../../src/channel/wire.ts'
import { Connection } from '../../src/connection/connection.ts'
import { Descriptor } from '../../src/descriptor/descriptor.ts'
import { native } from '../../src/os/native.ts'
import { AcceptPermits } from '../../src/prefork/listen/accept-permits.ts'
import { DispatchedListener } from '../../src/prefork/listen/dispatched-listener.ts'
import { PerWorkerListener } from '../../src/prefork/listen/per-worker-listener.ts'
import { Health } from '../../src/prefork/supervisor/health.ts'
import { ReturnedConnections } from '../../src/prefork/supervisor/returned.ts'
import { Slots } from '../../src/prefork/supervisor/slots.ts'
import { StopHandlers } from '../../src/serving/stop-handlers.ts'
import { Attempt } from '../../src/takeover/attempt.ts'
import { Candidacy } from '../../src/takeover/candidacy.ts'
import { Life } from '../../src/takeover/pipes.ts'
import { GivenState, LockedState } from '../../src/takeover/state.ts'

export interface Mutant {
  readonly model: 'connections' | 'supervisor' | 'takeover'
  readonly what: string
  /** Makes the mistake, and returns what undoes it. */
  make(): () => void
}

/** Replaces a method. `make` gets the right one. */
function replaced<Of extends object, Name extends keyof Of>(
  of: Of,
  name: Name,
  make: (right: any) => (this: any, ...args: any[]) => any
): () => () => void {
  return () => {
    const own = Object.getOwnPropertyDescriptor(of, name)
    Object.defineProperty(of, name, { configurable: true, writable: true, value: make(of[name]) })
    return () => {
      if (own === undefined) Reflect.deleteProperty(of, name)
      else Object.defineProperty(of, name, own)
    }
  }
}

const nothing = () => () => {}

export const MUTANTS: readonly Mutant[] = [
  {
    model: 'connections',
    what: 'a channel never closes its copies',
    make: replaced(SocketWire.prototype, 'discard', () => (_fds, done) => done?.(0))
  },
  {
    model: 'connections',
    what: 'a message that comes back is closed',
    make: replaced(
      Custody.prototype,
      'returnParcel',
      right =>
        function (state, parcel) {
          for (const fd of parcel.fds) native.close(fd)
          right.call(this, state, parcel)
        }
    )
  },
  {
    model: 'connections',
    what: 'confirmations are forgotten',
    make: replaced(Custody.prototype, 'onTaken', nothing)
  },
  {
    model: 'connections',
    what: 'bytes that were read already are forgotten',
    make: replaced(Socket.prototype, 'unshift', nothing)
  },
  {
    model: 'connections',
    what: 'claim() keeps nothing',
    make: replaced(
      Descriptor.prototype,
      'claim',
      () =>
        function () {
          return this
        }
    )
  },
  {
    model: 'connections',
    what: 'what no program claims is not closed',
    make: replaced(Custody.prototype, 'discard', nothing)
  },
  {
    model: 'connections',
    what: 'close() of a Connection does nothing',
    make: replaced(Connection.prototype, 'close', nothing)
  },
  {
    model: 'supervisor',
    what: 'connections that come back from a dead worker are dropped',
    make: replaced(ReturnedConnections.prototype, 'from', nothing)
  },
  {
    model: 'supervisor',
    what: 'all workers stop before a dead one has given back what it had not taken',
    make: replaced(ReturnedConnections.prototype, 'keeper', () => () => undefined)
  },
  {
    model: 'supervisor',
    what: 'connections that come back from a dead worker are closed',
    make: replaced(DispatchedListener.prototype, 'giveBack', () => connections => {
      for (const connection of connections) connection.close()
    })
  },
  {
    model: 'supervisor',
    what: 'a lane without a worker is lent to nobody',
    make: replaced(PerWorkerListener.prototype, 'balance', nothing)
  },
  {
    model: 'supervisor',
    what: 'nobody notices a worker that hangs',
    make: replaced(Health.prototype, 'begin', nothing)
  },
  {
    model: 'supervisor',
    what: 'a dead worker is not replaced',
    make: replaced(Slots.prototype, 'left', nothing)
  },
  {
    model: 'supervisor',
    what: 'a worker ends before its program has finished',
    make: replaced(StopHandlers.prototype, 'run', () => async () => false)
  },
  {
    model: 'supervisor',
    what: 'permits of workers never come back',
    make: replaced(AcceptPermits.prototype, 'confirm', nothing)
  },
  {
    model: 'takeover',
    what: 'an owner rolls back by the clock, without reading the byte',
    make: replaced(
      Attempt.prototype,
      'interrupted',
      right =>
        function () {
          if (this.state === 'offered' || this.state === 'frozen') this.facts.state = 'offering'
          right.call(this)
        }
    )
  },
  {
    model: 'takeover',
    what: 'an owner lets go when the byte is gone, before the mark',
    make: replaced(
      Attempt.prototype,
      'interrupted',
      right =>
        function () {
          right.call(this)
          if (this.state === 'committed') this.marked()
        }
    )
  },
  {
    model: 'takeover',
    what: 'a candidate takes the end of the channel for the death of its owner',
    make: replaced(
      Candidacy.prototype,
      'channelEnded',
      right =>
        function () {
          this.lifeEnded()
          right.call(this)
        }
    )
  },
  {
    model: 'takeover',
    what: 'a successor writes no mark',
    make: replaced(Life.prototype, 'mark', nothing)
  },
  {
    model: 'takeover',
    what: 'the next candidate reads the mark',
    make: () => {
      const { mark, readEnd, end } = Life.prototype
      const ends = new WeakMap<Life, Descriptor>()
      Life.prototype.mark = function (this: Life) {
        ends.set(this, readEnd.call(this))
        mark.call(this)
      }
      Life.prototype.readEnd = function (this: Life, copy = readable => readable.dup()) {
        const marked = ends.get(this)
        return marked === undefined ? readEnd.call(this, copy) : copy(marked)
      }
      Life.prototype.end = function (this: Life) {
        ends.get(this)?.[Symbol.dispose]()
        end.call(this)
      }
      return () => Object.assign(Life.prototype, { mark, readEnd, end })
    }
  },
  {
    model: 'takeover',
    what: 'a superseded owner keeps its state open',
    make: replaced(GivenState.prototype, 'close', nothing)
  },
  {
    model: 'takeover',
    what: 'a candidate that is too late keeps its copy of the state',
    make: replaced(LockedState.prototype, 'close', nothing)
  },
  {
    model: 'takeover',
    what: 'an owner forgets that it has frozen',
    make: replaced(
      Attempt.prototype,
      'freeze',
      right =>
        function () {
          const may = right.call(this)
          this.facts.frozen = false
          return may
        }
    )
  }
]
