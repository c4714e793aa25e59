/** What the shells ask the machine: the runtime folder, as runtimeFolder() of ../names.ts, and the names in the store. */

/** For bash and zsh: sets `folder`. */
export const RUNTIME_FOLDER = `local folder=\${PASSFD_RUNTIME_DIR:-}
  if [[ -n $folder ]]; then :
  elif (( EUID == 0 )); then folder=/run/passfd
  elif [[ -n \${XDG_RUNTIME_DIR:-} ]]; then folder=$XDG_RUNTIME_DIR/passfd
  else folder=\${TMPDIR:-\${TMP:-\${TEMP:-/tmp}}}/passfd-$EUID
  fi`

export const RUNTIME_FOLDER_FISH = `set -l folder $PASSFD_RUNTIME_DIR
    if test -n "$folder"
    else if test (id -u) -eq 0
        set folder /run/passfd
    else if test -n "$XDG_RUNTIME_DIR"
        set folder $XDG_RUNTIME_DIR/passfd
    else
        set -l temporary $TMPDIR $TMP $TEMP /tmp
        set folder $temporary[1]/passfd-(id -u)
    end`

/** Prints the names in the store that PASSFD_STORE or the runtime folder leads to, if it answers. A name may have spaces. */
export const ENTRIES = 'command passfd store list --names --timeout 1s 2>/dev/null'
