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

part_runs() { inside kill -0 "$(cat "$state/pid/$1")" 2> /dev/null; }
part_ended() { ! part_runs "$1"; }

kill_part() { # kill_part PART [SIGNAL]
  require_part "$1"
  inside kill "-${2:-KILL}" "$(cat "$state/pid/$1")"
  case ${2:-KILL} in KILL | TERM) wait_for "the end of $1" part_ended "$1" ;; esac
}

start_part() {
  require_part "$1"
  part_ended "$1" || fail "$1 runs already."
  echo "$1" > "$state/start"
  wait_for "$1" part_runs "$1"
}
