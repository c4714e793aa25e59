/**
 * A registry on the loopback that has passfd as it is packed, and the packages that it depends on, from this clone's node_modules. So an installer
 * does what it does for a user, and needs no network.
 */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const modules = fileURLToPath(new URL('../../node_modules', import.meta.url))
/** Installers leave a version out that is a few days old at most. */
const LONG_AGO = '2020-01-01T00:00:00.000Z'

/** Resolves to its URL, and to what closes it. `folder`: for the tarballs. */
export async function startRegistry(tarball, folder) {
  const packed = new Map([['passfd', tarball]])
  for (const name of ['bindings', 'file-uri-to-path', '@standard-schema/spec']) packed.set(name, repack(name, folder))
  const server = createServer((request, response) => {
    const path = decodeURIComponent(request.url.split('?')[0]).slice(1)
    const file = [...packed.values()].find(file => path === `-/${file.split('/').at(-1)}`)
    if (file !== undefined) response.end(readFileSync(file))
    else if (packed.has(path)) response.setHeader('content-type', 'application/json').end(JSON.stringify(about(path)))
    else response.writeHead(404, { 'content-type': 'application/json' }).end('{}')
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const url = `http://127.0.0.1:${server.address().port}/`
  const about = name => {
    const file = packed.get(name)
    const manifest = JSON.parse(execFileSync('tar', ['-xzOf', file, 'package/package.json'], { encoding: 'utf8' }))
    const bytes = readFileSync(file)
    const { version } = manifest
    const hash = (kind, form) => createHash(kind).update(bytes).digest(form)
    const dist = {
      tarball: `${url}-/${file.split('/').at(-1)}`,
      integrity: `sha512-${hash('sha512', 'base64')}`,
      shasum: hash('sha1', 'hex')
    }
    return {
      name,
      'dist-tags': { latest: version },
      versions: { [version]: { ...manifest, dist } },
      time: { created: LONG_AGO, modified: LONG_AGO, [version]: LONG_AGO }
    }
  }
  return {
    url,
    close: () => {
      server.closeAllConnections()
      server.close()
    }
  }
}

function repack(name, folder) {
  const args = ['pack', join(modules, name), '--json', '--ignore-scripts', '--offline', '--pack-destination', folder]
  const text = execFileSync('npm', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
  return join(folder, JSON.parse(text)[0].filename.replace('@', '').replace('/', '-'))
}
