/**
 * Unpacks a newer systemd than this Debian has, of its backports, into .cache/, and prints the folder that tests mount over /usr: PASSFD_TEST_SYSTEMD of
 * test/helpers/systemd.ts. Nothing on this machine changes. Needs root, and a Debian whose mirror has backports.
 */
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { makeFolder, run } from './debian.mjs'
import { path } from './targets.mjs'

const PACKAGES = ['systemd', 'libsystemd0', 'libsystemd-shared']
/** Of the package debian-archive-keyring, which every Debian has. */
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'

const [, codename] = /^VERSION_CODENAME=(.+)$/m.exec(readFileSync('/etc/os-release', 'utf8')) ?? []
const suite = `${codename}-backports`
const folder = path(`.cache/systemd-${suite}`)
makeFolder(folder, unpack)
console.log(join(folder, 'usr'))

function unpack(unfinished) {
  const apt = join(unfinished, 'apt')
  for (const name of ['lists/partial', 'cache/archives/partial']) mkdirSync(join(apt, name), { recursive: true })
  const sources = join(apt, 'sources.list')
  writeFileSync(sources, `deb [signed-by=${KEYRING}] ${mirror()} ${suite} main\n`)
  const settings = {
    'Dir::Etc::sourcelist': sources,
    'Dir::Etc::sourceparts': '/dev/null',
    'Dir::State::lists': join(apt, 'lists'),
    'Dir::Cache': join(apt, 'cache'),
    'APT::Sandbox::User': 'root'
  }
  const options = Object.entries(settings).flatMap(([name, value]) => ['-o', `${name}=${value}`])
  run('apt-get', [...options, '-q', 'update'])
  const names = PACKAGES.map(name => `${name}/${suite}`)
  run('sh', ['-c', 'cd "$0" && exec "$@"', apt, 'apt-get', ...options, '-q', 'download', ...names])
  for (const name of PACKAGES) run('sh', ['-c', 'exec dpkg -x "$0"/"$1"_*.deb "$2"', apt, name, unfinished])
  // A Debian of today has these in /usr
  for (const name of ['bin', 'lib']) {
    cpSync(join(unfinished, name), join(unfinished, 'usr', name), { recursive: true, verbatimSymlinks: true })
    rmSync(join(unfinished, name), { recursive: true })
  }
  rmSync(apt, { recursive: true })
}

/** From which this machine has its packages. */
function mirror() {
  const targets = run('apt-get', ['indextargets', '--format', '$(REPO_URI) $(RELEASE)', 'Created-By: Packages'])
  const [uri] = targets.split('\n').flatMap(line => {
    const [site, release] = line.split(' ')
    return release === codename ? [site] : []
  })
  if (uri === undefined) throw new Error(`apt-get has no packages of ${codename}`)
  return uri
}
