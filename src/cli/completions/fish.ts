/** Completions for fish. */
import { ENTRIES, RUNTIME_FOLDER_FISH } from './folder.ts'
import { type Node, nodesOf, type Value } from './tree.ts'

export function fishScript(tree: Node): string {
  const nodes = nodesOf(tree)
  const valued = nodes.flatMap(({ options }) =>
    options.flatMap(({ names, value }) => (value === undefined ? [] : names))
  )
  return `# Completions of passfd for fish: passfd completions fish > ~/.config/fish/completions/passfd.fish

function __passfd_names
    ${RUNTIME_FOLDER_FISH}
    for file in $folder/*.sock
        test -S $file; and string replace -r '.*/(.*)\\.sock$' '$1' -- $file
    end
end

function __passfd_servers
    set -l word (commandline -ct)
    if string match -q -- '*/*' $word
        __fish_complete_path $word
    else
        __passfd_names
    end
end

function __passfd_entries
    ${ENTRIES}
end

# The words before the cursor, without options and their values
function __passfd_words
    set -l words (commandline -opc)
    set -l skip 1
    for word in $words
        if test $skip -eq 1
            set skip 0
        else if contains -- $word ${[...new Set(valued)].join(' ')}
            set skip 1
        else if not string match -q -- '-*' $word
            echo $word
        end
    end
end

# They are these
function __passfd_at
    set -l words (__passfd_words)
    test "$words" = "$argv"
end

# They begin with these
function __passfd_in
    set -l words (__passfd_words)
    set -l count (count $argv)
    test (count $words) -ge $count; and test "$words[1..$count]" = "$argv"
end

# $argv[1] more words stand behind these
function __passfd_behind
    set -l more $argv[1]
    set -e argv[1]
    set -l words (__passfd_words)
    test (count $words) -eq (math (count $argv) + $more); and __passfd_in $argv
end

complete -c passfd -f
${nodes.flatMap(linesOf).join('\n')}
`
}

function linesOf({ path, commands, options, operands, passesOn }: Node): string[] {
  const at = quoted(['__passfd_at', ...path].join(' '))
  const within = quoted(['__passfd_in', ...path].join(' '))
  const isOwn = passesOn || commands.length > 0 ? at : within
  return [
    ...commands.map(each => `complete -c passfd -n ${at} -a ${each.path.at(-1)!} -d ${quoted(each.description)}`),
    ...options.map(({ names, description, value }) => {
      const flags = names.map(name => (name.startsWith('--') ? `-l ${name.slice(2)}` : `-s ${name.slice(1)}`))
      const parameter = value === undefined ? '' : `${value.optional ? '' : ' -r'} ${candidates(value)}`
      return `complete -c passfd -n ${isOwn} ${flags.join(' ')}${parameter} -d ${quoted(description)}`
    }),
    ...operands.flatMap((value, index) => {
      const words = candidates(value)
      const behind = value.variadic ? within : quoted(['__passfd_behind', index, ...path].join(' '))
      return words === '-f' ? [] : `complete -c passfd -n ${behind} ${words}`
    })
  ]
}

function candidates({ kind, choices }: Value): string {
  switch (kind) {
    case 'choices':
      return `-f -a ${quoted(choices.join(' '))}`
    case 'name':
      return `-f -a '(__passfd_names)'`
    case 'server':
      return `-f -a '(__passfd_servers)'`
    case 'entry':
      return `-f -a '(__passfd_entries)'`
    case 'folder':
      return `-f -a '(__fish_complete_directories)'`
    case 'file':
      return '-F'
    case 'other':
      return '-f'
  }
}

function quoted(text: string): string {
  return `'${text.replace(/[\\']/g, '\\$&')}'`
}
