export interface Packed {
  filename: string
  size: number
  unpackedSize: number
  files: { path: string; mode: number }[]
  /** The path of the file. */
  tarball: string
}

/**
 * Packs a copy of the work tree in `folder`. `complete`: as `npm publish` does, with the shims of all platforms. Otherwise with this machine's
 * alone, and dist/ as it is.
 */
export function pack(folder: string, complete: boolean): Promise<Packed>
