# The parts of a node that runs, of which they are started, stopped and killed.

list_parts() {
  local file
  for file in "$state/nodes/$node/pid"/*; do
    if part_runs "${file##*/}"; then echo "${file##*/} runs"; else echo "${file##*/} does not run"; fi
  done
}

require_part() {
  local parts=$state/nodes/$node/pid
  [ -e "$parts/$1" ] || fail "$node of the cluster $name has no part '$1'; it has: $(cd "$parts" && echo *)."
}

# bash's own kill: the program of that name is no part of a minimal system.
signal() { inside bash -c 'kill "-$1" "$2"' - "$1" "$(cat "$state/nodes/$node/pid/$2")"; } # signal SIGNAL PART

part_runs() { signal 0 "$1" 2> /dev/null; }
part_ended() { ! part_runs "$1"; }

kill_part() { # kill_part PART [SIGNAL]
  require_part "$1"
  signal "${2:-KILL}" "$1"
  case ${2:-KILL} in KILL | TERM) wait_for "the end of $1" part_ended "$1" ;; esac
}

start_part() {
  require_part "$1"
  part_ended "$1" || fail "$1 runs already."
  echo "$1" > "$state/nodes/$node/start"
  wait_for "$1" part_runs "$1"
}
