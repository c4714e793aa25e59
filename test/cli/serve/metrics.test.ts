import { EventEmitter, once } from 'node:events'
import { existsSync } from 'node:fs'
import { type RequestOptions, request } from 'node:http'
import { text } from 'node:stream/consumers'
import { EXIT } from '../../../src/cli/exit.ts'
import { type MetricsOptions, serveMetrics } from '../../../src/cli/serve/metrics.ts'
import { METRICS_CONTENT_TYPE } from '../../../src/prefork/index.ts'
import { temporaryPath } from '../../helpers/path.ts'
import { freePort } from '../../helpers/port.ts'
import { test } from '../../helpers/test.ts'

async function scrape(more: RequestOptions): Promise<string> {
  const asked = request({ host: '127.0.0.1', path: '/metrics', agent: false, ...more }).end()
  const [response] = await once(asked, 'response')
  const type = response.headers['content-type'] === METRICS_CONTENT_TYPE ? 'metrics' : ''
  return `${response.statusCode} ${type} ${await text(response)}`
}

/** A supervisor's events, and its metrics. */
function server(name: string): EventEmitter & MetricsOptions['supervisor'] {
  return Object.assign(new EventEmitter(), { metrics: async () => name }) as any
}

const more = { replaces: false, report: () => {} }

test('at an address that is taken: an error, or with --takeover an answer as soon as this server serves', async t => {
  const port = await freePort()
  const address = { port, host: '127.0.0.1' }
  const [one, two] = [server('one'), server('two')]
  const first = await serveMetrics({ ...more, address, supervisor: one })
  await t.throwsAsync(serveMetrics({ ...more, address, supervisor: two }), {
    message: /^The metrics can't be served: .*EADDRINUSE/,
    code: 'EADDRINUSE'
  })
  const second = await serveMetrics({ ...more, address, supervisor: two, replaces: true })
  t.is(await scrape({ port }), '200 metrics one')
  two.emit('started')
  t.is(await scrape({ port }), '200 metrics one')
  one.emit('superseded')
  let answer = ''
  while (answer !== '200 metrics two') answer = await scrape({ port }).catch(({ code }) => code)
  await second.close()
  await first.close()
  await t.throwsAsync(scrape({ port }), { code: 'ECONNREFUSED' })
})

test('other paths and methods; a failure of the metrics is an answer; a path is removed', async t => {
  const path = temporaryPath('metrics')
  const one = server('one')
  const first = await serveMetrics({ ...more, address: { path }, supervisor: one })
  t.is(await scrape({ socketPath: path, path: '/metrics?x' }), '200 metrics one')
  t.is(await scrape({ socketPath: path, method: 'HEAD' }), '200 metrics ')
  t.is(await scrape({ socketPath: path, path: '/' }), '404  GET /metrics\n')
  t.is(await scrape({ socketPath: path, method: 'POST' }), '405  GET /metrics\n')
  one.metrics = () => Promise.reject(new Error('no'))
  t.is(await scrape({ socketPath: path }), '500  no\n')
  await t.throwsAsync(serveMetrics({ ...more, address: { path }, supervisor: one }), { message: 'no' }, 'said at once')

  const nowhere = serveMetrics({
    ...more,
    address: { path: '/nowhere/at/all' },
    supervisor: server('two'),
    replaces: true
  })
  await t.throwsAsync(nowhere, { message: /ENOENT/ }).then(error => t.like(error, { exitCode: EXIT.cantCreate }))
  await first.close()
  t.false(existsSync(path))
})
