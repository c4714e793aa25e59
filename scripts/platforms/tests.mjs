/** Which tests run on which platform, and why others do not. */
import { readdirSync, readFileSync } from 'node:fs'
import { path } from '../targets.mjs'

/** Folders of test/. What several files of a folder share is loaded by its wing.test.ts. */
const ALL = [
  ...['os', 'descriptor', 'connection', 'codec', 'channel', 'stream', 'datagram', 'memory', 'serving', 'systemd'],
  ...['takeover', 'store', 'prefork', 'base']
]
/** Under emulation all takes ten times as long: what the native part and the descriptors have no part in does not run there. */
const WINGS = {
  debian11: ALL,
  musl: ALL,
  arm64: ALL.filter(wing => !['codec', 'serving', 'systemd', 'takeover', 'store', 'base'].includes(wing))
}

/** Files that run nowhere here: a service manager needs control groups of its own. */
const FILES_NOT = ['systemd/examples', 'systemd/kill', 'systemd/manager', 'systemd/units', 'store/three-stores'].map(
  name => `test/${name}.test.ts`
)

const EVERYWHERE = [
  ['takes a second version of Node', ['node-versions › *']],
  [
    'takes a hard link from the clone to /tmp, which is another file system',
    ['package-copy › a module and a copy by *']
  ]
]

/** Ends of titles, as ava's patterns, of what does not run on a platform, with the reason. */
const TESTS_NOT_ON = {
  debian11: EVERYWHERE,
  musl: [
    ...EVERYWHERE,
    // They make files for glibc's loader by changing this machine's, or with its compiler
    [
      "musl's loader takes any machine",
      ['load › a file of arm64 *', 'load › a file of riscv64 *', 'load › a file of a machine *']
    ],
    ['the file is not for glibc', ['load › a file for a newer glibc *', 'load › a file for musl*']]
  ],
  arm64: [
    ...EVERYWHERE,
    ['esbuild and the compiler are of this machine', ['load › bundled: *']],
    [
      'the compiler is of this machine',
      ['load › a file for musl*', 'load › a file that is another addon *', 'native-accept › acceptMany passes over *']
    ],
    [
      '/proc has the flags and the times of this machine and of qemu',
      [
        'launch › a Node worker has exactly *',
        'launch › a command has its listeners *',
        'procfs › resident *',
        'procfs › CPU *'
      ]
    ],
    ['NODE_OPTIONS are not empty', ['program › behind npm the worker *']],
    ['process.execPath is a script, which names no loader', ['libc › by the loader that a program names']]
  ]
}

/**
 * What qemu-user does not emulate, by the names that emulation.c gives to it, and the tests of that. Before the tests run emulation.c says what it still
 * is: a list that is too long fails as well as one that is too short.
 */
export const NOT_EMULATED = {
  'access mode 3': ['access › access is what read(2) and write(2) do, *', 'access › a device for ioctl(2) only *'],
  'socket type 99': ['socketpair and pipe give two held ends, *', 'a socket is made, bound, *'],
  // passfd chooses the highest signal that has no other use
  PR_SET_PDEATHSIG: ['native-parent › *'],
  // passfd does not open a terminal a second time if it can't see that it is the same one
  TIOCGDEV: [
    'native-terminal › reopen gives *',
    'poll-stream › a terminal is read and written through *',
    'poll-stream › a terminal hangs up: *',
    'poll-stream › a terminal whose other side does not read: *',
    'poll-stream › /dev/tty of another session *',
    'take-stream › a terminal: what toDuplex() gives',
    'to-node › a terminal becomes a stream *',
    'traps-conversion › trap 24: a terminal of somebody else*',
    'traps-conversion › trap 24: the other ends stay blocking, too: *',
    'traps-conversion › trap 24: readers that wait *',
    'traps-conversion › trap 25: a stream on a terminal *'
  ],
  SO_PEERGROUPS: ['peer › a server and its clients know each other*'],
  SO_PASSPIDFD: [
    'sender › two processes: *',
    'sender › a sender that has ended, *',
    'sender › a kernel that can make no pidfd *',
    'sender › each way to open a socket: *',
    'sender › what is dropped has it *',
    'sender › 253 descriptors and a pidfd *',
    'sender › what the kernel knows no process of *',
    'sender › a sender in a pid namespace *'
  ],
  SO_PASSRIGHTS: [
    'passRights is switched *',
    'connect › connect: until authorize has answered *',
    'server › listen: until a peer is authorized *'
  ],
  NETLINK_SOCK_DIAG: [
    'native-queued › it counts those that wait: a path',
    'native-queued › a Unix listener of another network namespace: *',
    'unix-sockets › *',
    'acceptor › no more than wanted; *',
    'dispatched-listener › least-connections, a Unix socket: a worker that accepts nothing *'
  ],
  // A supervisor that dispatches asks how many wait
  TCP_INFO: [
    'native-queued › it counts those that wait: IPv*',
    'control › dispatch: workers of versions 1 and 2 *',
    'dispatched-listener › round-robin: even *',
    'dispatched-listener › least-connections goes by what is open*',
    'dispatched-listener › round-robin, TCP: a worker that accepts nothing *'
  ],
  pwritev2: ['pool › a reader that says more than one word, *']
}

/** The ends of titles, as patterns of ava's, of what does not run there. */
export function excluded(name) {
  const titles = TESTS_NOT_ON[name].flatMap(([, titles]) => titles)
  return name === 'arm64' ? [...titles, ...Object.values(NOT_EMULATED).flat()] : titles
}

/** The files to give to ava: each wing, and the files of it that need a process of their own. */
export function testFilesOf(name) {
  return WINGS[name]
    .flatMap(wing => {
      const files = readdirSync(path(`test/${wing}`), { recursive: true }).filter(file => file.endsWith('.test.ts'))
      const isOwn = file => /^\/\/ A process of its own: /m.test(readFileSync(path(`test/${wing}/${file}`), 'utf8'))
      return ['wing.test.ts', ...files.filter(isOwn).sort()].map(file => `test/${wing}/${file}`)
    })
    .filter(file => !FILES_NOT.includes(file))
}
