// A server that lets in one other user. Both ends check each other: the server by mode and authorize, the guest by authorize.
//   node --import tsx examples/other-user.ts serve /run/demo/guests.sock 33      33: the uid of the guest
//   node --import tsx examples/other-user.ts visit /run/demo/guests.sock 1000    1000: the uid of the server; run it as the guest
import { userInfo } from 'node:os'
import { connect, listen, type PassfdError } from 'passfd'

const [role, path, uid] = process.argv.slice(2) as [string, string, string]
if (role === 'serve') await serve(path, Number(uid))
else await visit(path, Number(uid))

async function serve(path: string, guest: number) {
  const own = userInfo().uid
  const server = await listen(path, {
    mode: 0o666, // the kernel lets every user connect, so authorize decides. Narrower: mode 0o660 with the option group
    authorize: peer => peer.uid === guest || peer.uid === own // replaces the default rule, root included
  })
  server.serve(({ value, channel }) => {
    console.log(`server: process ${channel.peer.pid} of user ${channel.peer.uid} says "${value}"`)
    return 'welcome'
  })
  server.on('refused', (peer, error) => console.log(`server: refused user ${peer.uid}: ${(error as PassfdError).code}`))
  process.once('SIGTERM', () => server.close())
  console.log(`server: user ${own} waits for user ${guest}`)
}

async function visit(path: string, host: number) {
  try {
    // Without authorize a client talks only to a server of its own user or of root
    const channel = await connect(path, { authorize: peer => peer.uid === host })
    console.log(`guest: the server answers "${await channel.request('hello')}"`)
    await channel.close()
  } catch (error) {
    const { code, remote, message } = error as PassfdError
    if (code === 'ERR_PASSFD_PEER') console.log(`guest: the server refused: ${remote!.code}`)
    else if (code === 'ERR_PASSFD_UNAUTHORIZED') console.log(`guest: I refused the server: ${message}`)
    else console.log(`guest: ${message}`) // EACCES: the mode of the socket file keeps this user out
  }
}
