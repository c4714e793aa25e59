import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as passfd from 'passfd'
import { serveAll } from '../behaviour.mjs'

export default async function setup({ provide }) {
  const path = join(tmpdir(), `passfd-vitest-${process.pid}.sock`)
  provide('path', path)
  return await serveAll(passfd, path)
}
