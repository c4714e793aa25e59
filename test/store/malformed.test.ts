/** Something that is no store, or a broken one: what its answers bring is closed in the client. */
import { Connection, Descriptor, listen } from '../../src/index.ts'
import { connectStore } from '../../src/store/index.ts'
import { times } from '../helpers/full.ts'
import { malformed } from '../helpers/malformed.ts'
import { socketPath } from '../helpers/path.ts'
import { Random } from '../helpers/random.ts'
import { test } from '../helpers/test.ts'

const SEED = Number(process.env.PASSFD_MALFORMED_SEED ?? 1)

/** Answers `hello` as a store does, and everything else by `answer`. */
async function fakeStore(answer: (request: { do: string }) => unknown) {
  const path = socketPath()
  const server = await listen<any, any>(path)
  server.serve(({ value }) => {
    if (value.do === 'hello') return { store: 1, epoch: Buffer.alloc(16), known: false, gone: [], leases: [] }
    return value.do === 'take' || value.do === 'copy' ? answer(value) : { gone: [] }
  })
  return { path, server }
}

function entry(descriptors: unknown): Record<string, unknown> {
  const about = { name: 'a', owner: 0, kinds: ['memfd'], bytes: 0, uid: 0, pid: 1, since: 1, poll: false, keep: false }
  return { entry: 1, ...about, descriptors }
}

test('malformed answers to take, copy and obtain leave no descriptor open', async t => {
  let answer: unknown
  const { path, server } = await fakeStore(() => answer)
  const client = await connectStore(path)
  let refused = 0
  for (let seed = SEED; seed < SEED + times(150, 1500); seed++) {
    const random = new Random(seed)
    for (const what of ['take', 'copy', 'obtain'] as const) {
      answer = malformed(random, entry([Descriptor.memfd(), Descriptor.memfd()]))
      try {
        if (what === 'take') {
          const lease = await client.take('a')
          for (const one of lease?.descriptors ?? []) one[Symbol.dispose]()
          await lease?.release()
        } else if (what === 'copy') for (const one of (await client.copy('a'))?.descriptors ?? []) one.close()
        else (await client.obtain('a', () => Descriptor.memfd())).close()
      } catch (error) {
        t.is((error as NodeJS.ErrnoException).code, 'ERR_PASSFD_INVALID_ARGUMENT', `PASSFD_MALFORMED_SEED=${seed}`)
        refused++
      }
    }
  }
  t.true(refused > times(50, 500), `${refused} were refused`)
  await client.close()
  await server.close()
})

test('what a whole entry has beside its descriptors is closed', async t => {
  const [end, other] = Descriptor.socketpair()
  const { path, server } = await fakeStore(() => ({
    ...entry([Descriptor.memfd()]),
    further: { deep: [Descriptor.memfd(), new Connection(end)] }
  }))
  const client = await connectStore(path)
  const copy = (await client.copy('a'))!
  t.false(copy.descriptor.closed)
  copy.descriptor.close()
  other.close()
  await client.close()
  await server.close()
})
