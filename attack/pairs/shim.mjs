/** Tells faults.c where the shim's code is in this process: only calls from there fail. */
import { closeSync, openSync, readFileSync, writeSync } from 'node:fs'
import { native } from '../../build/dist/os/native.js'

/** Where `low` and `high` stand in struct orders. */
const PLACES = 24

export function announceShim(path = process.env.FAULTS) {
  native.held() // it is loaded now
  const [, low, high] = /^(\w+)-(\w+) r-xp .*passfd\S*\.node$/m.exec(readFileSync('/proc/self/maps', 'latin1'))
  const places = Buffer.alloc(16)
  places.writeBigUInt64LE(BigInt(`0x${low}`))
  places.writeBigUInt64LE(BigInt(`0x${high}`), 8)
  const orders = openSync(path, 'r+')
  writeSync(orders, places, 0, places.length, PLACES)
  closeSync(orders)
}
