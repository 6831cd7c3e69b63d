# The parts of a running cluster: which run, and faults for tests.

list_parts() {
  local file
  for file in "$state"/pid/*; do
    if part_runs "${file##*/}"; then echo "${file##*/} runs"; else echo "${file##*/} does not run"; fi
  done
}

require_part() {
  [ -e "$state/pid/$1" ] || fail "The cluster $name has no part '$1'; it has: $(cd "$state/pid" && echo *)."
}

# bash's own kill: the program of that name is no part of a minimal system.
signal() { inside bash -c 'kill "-$1" "$2"' - "$1" "$(cat "$state/pid/$2")"; } # signal SIGNAL PART

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
  echo "$1" > "$state/start"
  wait_for "$1" part_runs "$1"
}
