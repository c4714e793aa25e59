/** What can be completed: a plain tree of commander's commands, options and arguments. */
import type { Argument, Command, Option } from 'commander'
import { offersFor } from '../ui.ts'

export interface Node {
  /** Its name after those of the commands above it; empty: the program. */
  path: readonly string[]
  description: string
  commands: readonly Node[]
  options: readonly Flag[]
  operands: readonly Value[]
  /** What stands behind the first argument belongs to another program. */
  passesOn: boolean
}

export interface Flag {
  /** With their dashes, the short one first. */
  names: readonly string[]
  description: string
  /** Undefined: it has none. */
  value: Value | undefined
}

export interface Value {
  name: string
  kind: Kind
  choices: readonly string[]
  optional: boolean
  variadic: boolean
}

/** 'server': its name, or the path of its socket, which has a '/'. 'entry': a name in the store. */
export type Kind = 'choices' | 'server' | 'name' | 'entry' | 'file' | 'folder' | 'other'

/** What a value is, by the name that it has in the help. */
const KINDS: readonly (readonly [RegExp, Kind])[] = [
  [/^(server|target)$/, 'server'],
  [/^name$/, 'name'],
  [/^(entry|pattern)$/, 'entry'],
  [/folder|dir/, 'folder'],
  [/file|path|socket|program|module|command|cmd|args/, 'file']
]

const HELP = 'help'
/** The argument of 'help', which commander makes itself. */
const COMMAND: Value = { name: 'command', kind: 'choices', choices: [], optional: true, variadic: false }

export function treeOf(command: Command, path: readonly string[] = []): Node {
  const help = command.createHelp()
  const commands = help.visibleCommands(command)
  const names = commands.map(each => each.name()).filter(name => name !== HELP)
  return {
    path,
    description: firstSentence(command.description()),
    commands: commands.map(each => {
      const node = treeOf(each, [...path, each.name()])
      return each.name() === HELP ? { ...node, operands: [{ ...COMMAND, choices: names }] } : node
    }),
    options: help.visibleOptions(command).map(flagOf),
    operands: command.registeredArguments.map(argument => readValue(argument.name(), !argument.required, argument)),
    passesOn: (command as { _passThroughOptions?: boolean })._passThroughOptions === true
  }
}

/** All of them, the program first. */
export function nodesOf(node: Node): Node[] {
  return [node, ...node.commands.flatMap(nodesOf)]
}

function flagOf(option: Option): Flag {
  const [, name = ''] = /[<[]([^\]>]+)[\]>]/.exec(option.flags) ?? []
  return {
    names: [option.short, option.long].filter(flag => flag !== undefined),
    description: option.description,
    value:
      option.required || option.optional ? readValue(name.replace(/\.\.\.$/, ''), option.optional, option) : undefined
  }
}

function readValue(name: string, optional: boolean, of: Argument | Option): Value {
  const { variadic } = of
  const choices = offersFor(of)
  if (choices !== undefined) return { name, kind: 'choices', choices, optional, variadic }
  const kind = KINDS.find(([pattern]) => pattern.test(name.toLowerCase()))?.[1] ?? 'other'
  return { name, kind, choices: [], optional, variadic }
}

/** A menu has room for one. */
function firstSentence(text: string): string {
  return /^.*?[.;](?=\s|$)/s.exec(text)?.[0].slice(0, -1) ?? text
}
