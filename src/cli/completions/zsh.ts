/** Completions for zsh, by its _arguments. */
import { ENTRIES, RUNTIME_FOLDER } from './folder.ts'
import { type Flag, type Node, nodesOf, type Value } from './tree.ts'

export function zshScript(tree: Node): string {
  return `#compdef passfd
# Completions of passfd for zsh. In ~/.zshrc, after compinit: source <(passfd completions zsh)
# Or as a file _passfd in a folder of $fpath.

_passfd_names() {
  ${RUNTIME_FOLDER}
  local -a names=("$folder"/*.sock(N=:t:r))
  compadd "$@" -a names
}

_passfd_entries() {
  local -a names=("\${(@f)$(${ENTRIES})}")
  compadd "$@" -a names
}

_passfd_server() {
  if [[ $PREFIX == */* ]]; then _files "$@"; else _passfd_names "$@"; fi
}

${nodesOf(tree).map(functionOf).join('\n\n')}

if [[ \${funcstack[1]} == _passfd ]]; then
  _passfd "$@"
else
  compdef _passfd passfd
fi
`
}

function functionOf(node: Node): string {
  const { commands, options, operands, passesOn } = node
  const flags = options.map(flagSpec)
  if (commands.length === 0) {
    const words = [...flags, ...operands.map(operandSpec)]
    // Of another program's arguments the options are its own
    return `${nameOf(node)}() {\n  _arguments -s -S ${passesOn ? `-A '-*' ` : ''}${continued(words)}\n}`
  }
  const list = commands.map(each => `    ${quoted(`${each.path.at(-1)!}:${each.description}`)}`)
  const cases = commands.map(each => `        ${quoted(each.path.at(-1)!)}) ${nameOf(each)} && ret=0 ;;`)
  return `${nameOf(node)}() {
  local curcontext="$curcontext" state line ret=1
  local -A opt_args
  local -a commands=(
${list.join('\n')}
  )
  _arguments -C -s -S ${continued([...flags, `'1: :->command'`, `'*:: :->rest'`])} && ret=0
  case $state in
    command) _describe -t commands command commands && ret=0 ;;
    rest)
      case $line[1] in
${cases.join('\n')}
      esac
      ;;
  esac
  return ret
}`
}

function nameOf({ path }: Node): string {
  return ['_passfd', ...path.map(part => part.replace(/\W/g, '_'))].join('_cmd_')
}

function continued(words: readonly string[]): string {
  return words.map(word => `\\\n    ${word}`).join(' ')
}

function flagSpec({ names, description, value }: Flag): string {
  const words = names.map(name => `${name}${value === undefined ? '' : name.startsWith('--') ? '=' : '+'}`)
  const argument = value === undefined ? '' : `${value.optional ? '::' : ':'}${escaped(value.name)}:${action(value)}`
  const what = quoted(`[${escaped(description)}]${argument}`)
  const repeated = value !== undefined // passfd says if it may not be
  const exclusive = names.length > 1 && !repeated ? quoted(`(${names.join(' ')})`) : ''
  const star = repeated ? `'*'` : ''
  return `${exclusive}${star}${words.length > 1 ? `{${words.join(',')}}` : words[0]}${what}`
}

function operandSpec(value: Value, index: number): string {
  return quoted(`${value.variadic ? '*' : index + 1}:${escaped(value.name)}:${action(value)}`)
}

function action({ kind, choices }: Value): string {
  const actions = {
    name: '_passfd_names',
    server: '_passfd_server',
    entry: '_passfd_entries',
    file: '_files',
    folder: '_files -/',
    other: ' '
  }
  return kind === 'choices' ? `(${choices.map(escaped).join(' ')})` : actions[kind]
}

/** Within a spec of _arguments. */
function escaped(text: string): string {
  return text.replace(/[\\[\]:]/g, '\\$&')
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`
}
