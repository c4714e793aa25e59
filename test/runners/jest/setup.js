import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as passfd from 'passfd'
import { serveAll } from '../behaviour.mjs'

export default async function setup() {
  const path = join(tmpdir(), `passfd-jest-${process.pid}.sock`)
  process.env.PASSFD_PATH = path
  globalThis.stopPassfd = await serveAll(passfd, path)
}
