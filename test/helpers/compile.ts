/** The compiler as the project has set it, for some files. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { start } from './process.ts'

/** Compiles files with the project's settings; gives what the compiler says. */
export async function compile(...paths: string[]): Promise<{ code: number | null; output: string }> {
  const root = fileURLToPath(new URL('../..', import.meta.url))
  const folder = mkdtempSync(join(tmpdir(), 'passfd-types-'))
  try {
    const config = join(folder, 'tsconfig.json')
    const typeRoots = [join(root, 'node_modules/@types')]
    writeFileSync(
      config,
      JSON.stringify({ extends: join(root, 'tsconfig.json'), compilerOptions: { typeRoots }, include: paths })
    )
    const { child, exit } = start(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', config])
    let output = ''
    child.stdout!.on('data', text => {
      output += text
    })
    return { code: (await exit).code, output }
  } finally {
    rmSync(folder, { recursive: true })
  }
}
