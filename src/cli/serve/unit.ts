/** `passfd unit <program> [args…]`: a unit of systemd that runs what `passfd serve` would. */
import { userInfo } from 'node:os'
import { delimiter, dirname, resolve } from 'node:path'
import { type Command, InvalidArgumentError } from 'commander'
import { CommandError, EXIT } from '../exit.ts'
import { examples, Ui } from '../ui.ts'
import { loadConfiguration } from './config.ts'
import { addOptions, type ServeOptions, withPaths, wordKind } from './options.ts'
import { checkFound, folderWith } from './program.ts'
import { planOf } from './serve.ts'
import { environmentOf } from './supervisor-options.ts'
import { withWatchFolders } from './watch-folders.ts'

interface UnitOptions extends ServeOptions {
  perUser?: true
  runAs?: string
}

/** Of passfd serve, in ms. */
const STOP_TIMEOUT = 30_000
const KILL_TIMEOUT = 5000
/** Until systemd takes a supervisor for hung, in s. */
const WATCHDOG = 30
/** What systemd waits longer than the server's own limits, in s. */
const SLACK = 10
/** What systemd takes for a user, or nearly so. It reads an empty name as root. */
const USER = /^[\p{L}\p{N}_][\p{L}\p{N}_.@\\-]*\$?$/u

export function register(program: Command): void {
  let words: readonly string[] = []
  const command = program
    .command('unit')
    .description(
      'Prints a unit of systemd for a server: it starts what `passfd serve` starts with the same options and arguments.'
    )
    .argument('[program]', 'as of passfd serve')
    .argument('[args...]', 'its arguments')
    .passThroughOptions()
    .option('--per-user', "for a user's own manager (systemctl --user)")
    .option('--run-as <user>', 'the user of the service (default: who prints it)', userOf)
    .action((first: string | undefined, rest: string[], options: UnitOptions) =>
      printUnit(first === undefined ? [] : [first, ...rest], options, words, new Ui(command))
    )
  addOptions(command)
  const parseOptions = command.parseOptions.bind(command)
  command.parseOptions = given => {
    const all = withWatchFolders(given, { kindOf })
    words = withoutOwn(all)
    return parseOptions(all)
  }
  examples(
    command,
    ['passfd unit server.js', 'for /etc/systemd/system/NAME.service'],
    [
      'passfd unit --run-as shop -w 4 --max-rss 300M server.js --port 3000',
      'with options of passfd serve and of the program'
    ],
    ['passfd unit --takeover server.js', 'systemctl reload replaces passfd and Node, too'],
    ['passfd unit --per-user server.js', 'for ~/.config/systemd/user/NAME.service']
  )
}

async function printUnit(
  program: readonly string[],
  given: UnitOptions,
  words: readonly string[],
  ui: Ui
): Promise<void> {
  const { perUser = false, runAs, ...serve } = given
  if (perUser && runAs !== undefined)
    throw new CommandError(EXIT.usage, "A user's own manager has no other users", 'Give --per-user or --run-as')
  const cwd = process.cwd()
  const options = { ...(await loadConfiguration(cwd, serve.config)), ...withPaths(serve, cwd) }
  const { name, command, cwd: folder } = planOf(program, options, ui, cwd)
  const user = perUser ? undefined : (runAs ?? userName())
  const path = pathFor(command[0], options, folder, ui.streams.env.PATH)
  ui.print(unitOf({ name, options, cwd, words, perUser, user, path }))
}

/** The folders of PATH in the unit. With that of a command which the shell finds, and the service would not. Throws (exit code 66) if nobody finds it. */
function pathFor(command: string, options: ServeOptions, cwd: string, shell: string | undefined): string[] {
  const { PATH: inUnit } = environmentOf(options, { cwd, env: { PATH: PATH.join(delimiter) }, colors: false })
  if (command.includes('/') || folderWith(command, inUnit!, cwd) !== undefined) return PATH
  const found = folderWith(command, shell ?? inUnit!, cwd)
  if (found !== undefined) return [...PATH, found]
  checkFound(command, shell ?? inUnit!, cwd) // throws
  return PATH
}

function userOf(given: string): string {
  if (USER.test(given)) return given
  throw new InvalidArgumentError("It must be a user's name or number")
}

interface Unit {
  readonly name: string
  readonly options: ServeOptions
  readonly cwd: string
  /** Of the command line, after `passfd serve`. */
  readonly words: readonly string[]
  readonly perUser: boolean
  /** Undefined: root, or the user of the manager. */
  readonly user: string | undefined
  /** The folders of PATH. */
  readonly path?: readonly string[]
}

const PATH = [...new Set([dirname(process.execPath), '/usr/local/bin', '/usr/bin', '/bin'])]

/** The text of the unit, without its last newline. Throws (exit code 64) if the folder can't stand there. */
export function unitOf(
  { name, options, cwd, words, perUser, user, path = PATH }: Unit,
  passfd = resolve(process.argv[1] ?? 'passfd')
): string {
  const { takeover = false, lameDuck = 0, stopTimeout = STOP_TIMEOUT, killTimeout = KILL_TIMEOUT } = options
  // systemd expands no variables in the path of the program (systemd.service(5))
  const command = [quoted(process.execPath, false), ...[passfd, 'serve', ...words].map(word => quoted(word))].join(' ')
  const place = perUser ? '~/.config/systemd/user' : '/etc/systemd/system'
  const systemctl = perUser ? 'systemctl --user' : 'systemctl'
  const lines = [
    `# ${place}/${name}.service: start it, now and at ${perUser ? 'login' : 'boot'}, by "${systemctl} enable --now ${name}".`,
    // A user's manager runs from the first login to the last logout
    ...(perUser ? ['# At boot, and without a login: "loginctl enable-linger".'] : []),
    `# Its commands, in your shell: passfd status ${perUser ? '$XDG_RUNTIME_DIR' : '/run'}/${name}/${name}.sock`,
    '[Unit]',
    `Description=${specifiers(name)}, served by passfd`,
    ...(perUser ? [] : ['Wants=network-online.target', 'After=network-online.target']),
    '',
    '[Service]',
    'Type=notify',
    // A successor notifies before it is the main process
    ...(takeover ? ['NotifyAccess=all'] : []),
    ...(user === undefined ? [] : [`User=${user}`]),
    `WorkingDirectory=${folderText(cwd)}`,
    `RuntimeDirectory=${name}`,
    'RuntimeDirectoryMode=0700',
    `Environment=${quoted(`PATH=${path.join(':')}`, false)}`,
    `Environment=PASSFD_RUNTIME_DIR=%t/${name}`,
    `ExecStart=${command}`,
    `ExecReload=/bin/kill -${takeover ? 'USR2' : 'HUP'} $MAINPID`,
    'KillMode=mixed',
    'Restart=on-failure',
    `TimeoutStopSec=${Math.ceil((lameDuck + stopTimeout + killTimeout) / 1000) + SLACK}`,
    `WatchdogSec=${WATCHDOG}`,
    '',
    '[Install]',
    `WantedBy=${perUser ? 'default.target' : 'multi-user.target'}`
  ]
  return lines.join('\n')
}

/** Root needs no User=. */
function userName(): string | undefined {
  return process.geteuid?.() === 0 ? undefined : userInfo().username
}

/** As `wordKind()`, with the options of this command. */
function kindOf(word: string): ReturnType<typeof wordKind> {
  return word === '--run-as' ? 'with value' : wordKind(word)
}

/** The words without the two options that passfd serve does not know. They stand before the program. */
function withoutOwn(words: readonly string[]): string[] {
  const kept: string[] = []
  let at = 0
  for (; at < words.length; at++) {
    const word = words[at]!
    const kind = kindOf(word)
    if (kind === undefined || word === '--') break
    const option = words.slice(at, kind === 'with value' ? ++at + 1 : at + 1)
    if (!/^--(per-user$|run-as(=|$))/.test(word)) kept.push(...option)
  }
  return [...kept, ...words.slice(at)]
}

/** A path alone (systemd.exec(5)), which has no quotation marks. systemd drops space at the end, and a backslash there continues the line. */
function folderText(folder: string): string {
  if (/[\n\r]/.test(folder))
    throw new CommandError(
      EXIT.usage,
      'The name of this folder has a line break, and a unit has no words for that',
      'Rename it'
    )
  return specifiers(/[\s\\]$/.test(folder) ? `${folder}/` : folder)
}

const ESCAPES: Record<string, string> = { '\n': '\\n', '\r': '\\r', '\t': '\\t' }

/** A word of a command line (systemd.service(5)), or a value (systemd.syntax(7)): a command line has variables, too. */
export function quoted(word: string, variables = true): string {
  const escaped = specifiers(word)
    .replace(/[\\"]/g, '\\$&')
    .replace(/[\n\r\t]/g, each => ESCAPES[each]!)
  const plain = variables ? escaped.replaceAll('$', '$$$$') : escaped
  return /^[\w@%+=:,./-]+$/.test(word) ? plain : `"${plain}"`
}

/** `%` begins a specifier of systemd's. */
function specifiers(text: string): string {
  return text.replaceAll('%', '%%')
}
