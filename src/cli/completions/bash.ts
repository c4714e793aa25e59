/** Completions for bash, without the package of completions that a distribution may have. */
import { ENTRIES, RUNTIME_FOLDER } from './folder.ts'
import { type Node, nodesOf, type Value } from './tree.ts'

export function bashScript(tree: Node): string {
  const nodes = nodesOf(tree)
  const steps = nodes.flatMap(({ path, commands, options }) => [
    ...commands.map(
      each => `      ${quoted([path.join(' '), each.path.at(-1)].join(' '))}) node=${quoted(each.path.join(' '))} ;;`
    ),
    ...options.flatMap(({ names, value }) =>
      value === undefined
        ? []
        : `      ${names.map(name => quoted(`${path.join(' ')} ${name}`)).join(' | ')}) value=${quoted(typeOf(value))} ;;`
    )
  ])
  const flags = nodes.map(({ path, options }) => {
    const names = options.flatMap(each => each.names)
    return `      ${quoted(path.join(' '))}) words=${quoted(names.join('\n'))} ;;`
  })
  const operands = nodes.flatMap(({ path, commands, operands }) => [
    ...(commands.length === 0
      ? []
      : [
          `    ${quoted(`${path.join(' ')} 0`)}) _passfd_value ${quoted(choices(commands.map(each => each.path.at(-1)!)))} ;;`
        ]),
    ...operands.map((value, index) => {
      const pattern = value.variadic ? `${quoted(`${path.join(' ')} `)}*` : quoted(`${path.join(' ')} ${index}`)
      return `    ${pattern}) _passfd_value ${quoted(typeOf(value))} ;;`
    })
  ])
  const passing = nodes.filter(({ passesOn }) => passesOn).map(({ path }) => quoted(path.join(' ')))
  return `# Completions of passfd for bash. In ~/.bashrc: source <(passfd completions bash)

_passfd_names() {
  ${RUNTIME_FOLDER}
  local file
  for file in "$folder"/*.sock; do
    [[ -S $file ]] && file=\${file##*/} && printf '%s\\n' "\${file%.sock}"
  done
}

# $1: what kind of word comes; its beginning is in cur
_passfd_value() {
  local IFS=$'\\n'
  case $1 in
    'choices '*) COMPREPLY=($(compgen -W "\${1#choices }" -- "$cur")) ;;
    name) COMPREPLY=($(compgen -W "$(_passfd_names)" -- "$cur")) ;;
    entry)
      local name
      while read -r name; do
        [[ $name == "$cur"* ]] && COMPREPLY+=("$(printf %q "$name")")
      done < <(${ENTRIES})
      ;;
    server)
      if [[ $cur == */* ]]; then _passfd_value file; else _passfd_value name; fi
      ;;
    file)
      compopt -o filenames
      COMPREPLY=($(compgen -f -- "$cur"))
      ;;
    folder)
      compopt -o filenames
      COMPREPLY=($(compgen -d -- "$cur"))
      ;;
  esac
}

_passfd() {
  local cur=\${COMP_WORDS[COMP_CWORD]} node= value= last= count=0 rest= words= i word
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    if [[ $word == [=:] ]]; then # bash has split a word there
      [[ -n $value ]] || value=$last
      continue
    fi
    if [[ -n $value ]]; then
      last=$value value=
      continue
    fi
    last=
    if [[ -n $rest ]]; then
      ((count += 1))
      continue
    fi
    case "$node $word" in
${steps.join('\n')}
      *' --') rest=1 ;;
      *' -'*) ;;
      *)
        ((count += 1))
        case $node in
          ${passing.length === 0 ? "'-'" : passing.join(' | ')}) rest=1 ;;
        esac
        ;;
    esac
  done
  if [[ $cur == [=:] ]]; then
    cur=
    [[ -n $value ]] || value=$last
  fi
  if [[ -n $value && $cur != -* ]]; then
    _passfd_value "$value"
    return
  fi
  if [[ -z $rest && $cur == -* ]]; then
    case $node in
${flags.join('\n')}
    esac
    _passfd_value "choices $words"
    return
  fi
  case "$node $count" in
${operands.join('\n')}
  esac
}

complete -F _passfd passfd
`
}

function typeOf({ kind, choices: words }: Value): string {
  return kind === 'choices' ? choices(words) : kind
}

function choices(words: readonly string[]): string {
  return `choices ${words.join('\n')}`
}

function quoted(text: string): string {
  return text.includes('\n')
    ? `$'${text.replace(/[\\']/g, '\\$&').replaceAll('\n', '\\n')}'`
    : `'${text.replaceAll("'", `'\\''`)}'`
}
