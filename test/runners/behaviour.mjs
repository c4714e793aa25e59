/**
 * What passfd must do under a test runner that evaluates it again for each file. `passfd` is the file's own evaluation, `again` makes
 * another one, `equal(actual, expected)` is the runner's.
 */
/** One request that carries a descriptor, over a pair of channels of one evaluation. */
export async function exchange(passfd, equal) {
  const [left, end] = passfd.pair()
  const right = await passfd.connect(end)
  right.serve(({ value }) => `${value.greeting} ${value.file.kind}`)
  equal(await left.request({ greeting: 'a', file: passfd.Descriptor.openSync('/etc/hostname') }), 'a file')
  await Promise.all([left.close(), right.close()])
}

/** Two evaluations talk over a socket, the channels of the first live on, and a Descriptor of one is refused by the other by name. */
export async function evaluateAgain(passfd, again, equal) {
  const [left, end] = passfd.pair()
  const other = await again()
  equal(other.Descriptor === passfd.Descriptor, false)
  let refused
  const strange = other.Descriptor.openSync('/etc/hostname')
  try {
    left.send({ strange })
  } catch (error) {
    refused = error
  }
  equal(refused?.code, 'ERR_PASSFD_ENCODE')
  equal(/another (evaluation|copy) of passfd/.test(refused.message), true)
  equal(strange.closed, false)
  strange.close()
  const right = await other.connect(other.Descriptor.adopt(end.detach()))
  left.serve(({ value }) => value.file.kind)
  right.serve(({ value }) => value.file.kind)
  equal(await right.request({ file: other.Descriptor.openSync('/etc') }), 'directory')
  equal(await left.request({ file: passfd.Descriptor.pipe().readable }), 'pipe')
  await Promise.all([left.close(), right.close()])
}

/** Leaves a channel behind, with a listener, that will be written to when the file's realm is long gone. */
export async function leaveBehind(passfd, path) {
  const channel = await passfd.connect(path)
  channel.unref()
  channel.on('message', () => {})
  passfd.Descriptor.openSync('/etc/hostname')
}

/** Leaves a server and a channel to it open, which keep their process or thread going: the runner ends that. */
export async function leaveOpen(passfd, name, equal) {
  const server = await passfd.listen({ abstract: name })
  server.serve(() => 'answered')
  const channel = await passfd.connect({ abstract: name })
  equal(await channel.request('asked'), 'answered')
}

/** Has the server write, with a descriptor, to all channels that files have left behind. */
export async function writeToAll(passfd, path, equal) {
  const channel = await passfd.connect(path)
  equal(await channel.request('write to all'), 'written')
  await channel.close()
}

/** The server, in the runner's own process and realm: give it to the runner's global setup. Returns what stops it. */
export async function serveAll(passfd, path) {
  const ending = new AbortController()
  const server = await passfd.listen(path, { signal: ending.signal })
  server.serve(({ value }) => {
    if (value !== 'write to all') return
    for (const channel of server.channels) channel.send({ file: passfd.Descriptor.openSync('/etc/hostname') })
    return 'written'
  })
  return () => {
    ending.abort()
    return server.closed.then(() => {})
  }
}
