/** `--watch [folder…]` before a program: which of the words behind it are its folders. */
import { statSync } from 'node:fs'
import { wordKind } from './options.ts'

/**
 * Writes `--watch src lib server.js` as `--watch=src --watch=lib server.js`: words behind `--watch` are its folders, as long as they name folders
 * and another word, the program, follows. So `--watch server.js` and `--watch .` mean what they seem to mean. `kindOf`: of a command with further options.
 */
export function withWatchFolders(
  words: readonly string[],
  { isFolder = isExistingFolder, kindOf = wordKind } = {}
): string[] {
  const result: string[] = []
  let at = 0
  for (; at < words.length; at++) {
    const word = words[at]!
    const kind = kindOf(word)
    if (kind === undefined || word === '--') break
    if (word === '--watch') {
      const folders: string[] = []
      while (at + 2 < words.length && kindOf(words[at + 1]!) === undefined && isFolder(words[at + 1]!))
        folders.push(words[++at]!)
      result.push(...(folders.length === 0 ? ['--watch='] : folders.map(folder => `--watch=${folder}`)))
      continue
    }
    result.push(word)
    if (kind === 'with value' && at + 1 < words.length) result.push(words[++at]!)
  }
  return [...result, ...words.slice(at)]
}

function isExistingFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true
}
