/**
 * Makes the toolchain of the published shims: Debian 11 with compilers for x64 and arm64, glibc and musl, in .cache/toolchain. A binary that is linked
 * with its glibc needs glibc 2.28, as Node 20 itself does. Needs root, debootstrap(8) and a Debian mirror; some minutes and 900 MB. Does nothing if it is
 * there.
 */
import { arch } from 'node:process'
import { debootstrap, install, makeFolder, within } from './debian.mjs'
import { path } from './targets.mjs'

const SUITE = 'bullseye'
const PACKAGES = ['gcc', 'libc6-dev', 'musl-dev', 'gcc-aarch64-linux-gnu', 'libc6-dev-arm64-cross']
/** Of the other architecture: musl has no cross package. */
const FOREIGN = ['musl-dev']

export const TOOLCHAIN = path('.cache/toolchain')

export function makeToolchain() {
  makeFolder(TOOLCHAIN, folder => {
    if (arch !== 'x64') throw new Error(`the toolchain runs on x64, this is ${arch}`)
    debootstrap(SUITE, folder, PACKAGES)
    install(folder, [], FOREIGN)
  })
}

/** Runs a command in the toolchain, in its folder /src, and returns its output. */
export function inToolchain(command) {
  return within(TOOLCHAIN, ['sh', '-c', 'cd /src && exec "$@"', 'sh', ...command])
}
