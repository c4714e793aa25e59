/** Two static analyzers find nothing in native/, and what they would find is found. */
import { readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { temporaryPath } from '../helpers/path.ts'
import { start } from '../helpers/process.ts'
import { missing } from '../helpers/programs.ts'
import { testIf } from '../helpers/test.ts'

const native = fileURLToPath(new URL('../../native/', import.meta.url))
const sources = ['waist', 'glue'].flatMap(folder =>
  readdirSync(join(native, folder))
    .filter(name => name.endsWith('.c'))
    .map(name => join(native, folder, name))
)
const headers = join(process.execPath, '../../include/node')
const DEFINES = ['-D_GNU_SOURCE', '-DNAPI_VERSION=8']

/** One after the other: each takes a core. Gives what it has printed. */
type Analyzer = (sources: readonly string[]) => Promise<string>

const analyzers: Record<string, { program: string; package: string; analyze: Analyzer }> = {
  'gcc -fanalyzer': {
    program: '/usr/bin/gcc',
    package: 'build-essential',
    async analyze(files) {
      const flags = [
        '-std=c11',
        ...DEFINES,
        `-I${headers}`,
        '-O2',
        '-Wall',
        '-Wextra',
        '-fanalyzer',
        '-c',
        '-o',
        '/dev/null'
      ]
      let found = ''
      for (const file of files) found += await outputOf('/usr/bin/gcc', [...flags, file])
      return found
    }
  },
  cppcheck: {
    program: '/usr/bin/cppcheck',
    package: 'cppcheck',
    analyze: files =>
      outputOf('/usr/bin/cppcheck', [
        '--enable=warning,performance,portability,style',
        '--inconclusive',
        '--quiet',
        '--force',
        '--std=c11',
        ...DEFINES,
        '-D__GLIBC__',
        '--suppress=missingIncludeSystem',
        '--suppress=shadowFunction', // FUNCTION(name) names a function as JavaScript does
        '--suppress=unusedStructMember', // the `bytes` of a union only give it its size
        ...files
      ])
  }
}

/** Each analyzer must find both in this. */
const FAULTY = `
#include <stdlib.h>
int leak(int size)
{
	char *bytes = malloc(size);
	if (bytes == NULL)
		return -1;
	bytes[0] = 1;
	return bytes[0];
}
int beyond(void)
{
	int numbers[4] = {0};
	int *number = malloc(sizeof *number);
	if (number == NULL)
		return -1;
	free(number);
	return numbers[4] + *number;
}
`

for (const [name, { program, package: from, analyze }] of Object.entries(analyzers)) {
  testIf(missing(program, from), `${name} finds nothing in native/`, async t => {
    t.true(sources.length > 20)
    t.is(await analyze(sources), '')
  })

  testIf(missing(program, from), `${name} finds faults that are there`, async t => {
    const path = `${temporaryPath('faulty')}.c`
    writeFileSync(path, FAULTY)
    const found = await analyze([path])
    t.regex(found, /leak/)
    t.regex(found, /use-after-free|arrayIndexOutOfBounds/)
  })
}

async function outputOf(command: string, parameters: string[]): Promise<string> {
  const { child, exit } = start(command, parameters)
  let output = ''
  child.stdout!.on('data', text => {
    output += text
  })
  return output + (await exit).stderr
}
