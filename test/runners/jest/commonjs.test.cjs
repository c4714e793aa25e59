// A CommonJS test, as most of Jest's are: it takes passfd, which is an ES module, by import().

const equal = (actual, expected) => expect(actual).toEqual(expected)
const behaviour = import('../behaviour.mjs')

test('a request', async () => (await behaviour).exchange(await import('passfd'), equal))

test('an evaluation of its own in jest.isolateModulesAsync()', async () => {
  const passfd = await import('passfd')
  const again = async () => {
    let other
    await jest.isolateModulesAsync(async () => {
      jest.resetModules()
      other = await import('passfd')
    })
    return other
  }
  await (await behaviour).evaluateAgain(passfd, again, equal)
})

test('a server is left open', async () => {
  const passfd = await import('passfd')
  const address = { abstract: `passfd-left-open-${process.pid}` }
  const server = await passfd.listen(address)
  server.unref()
  const channel = await passfd.connect(address)
  channel.unref()
  server.serve(() => 'answered')
  equal(await channel.request('asked'), 'answered')
  for (const each of server.channels) each.unref()
})
