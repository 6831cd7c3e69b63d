# Runs the steps of a long job one after the other; says what runs, for how long, and about how long all of it will take.
#
# A job sets `job` to its name and calls `run_steps` with one line for each step on its standard input:
#   FUNCTION | SECONDS THE FIRST TIME | SECONDS AGAIN | WHAT IT DOES
# A step's output goes to out/logs/JOB/FUNCTION.log and is shown when the step fails, which ends the job. What the steps
# took is printed in either case, and remembered for the next estimate. The estimates in the job are for two cores.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/zimage

programs=${CARGO_TARGET_DIR:-$repository/target}/release

fail() { printf '%s\n' "$@" >&2; exit 1; }
# shellcheck source=cluster/lib/check.sh
. "$repository/tests/cluster/lib/check.sh"

duration() { # duration SECONDS: for people
  if [ "$1" -lt 90 ]; then echo "$1 s"; else echo "$((($1 + 30) / 60)) min"; fi
}

estimate() { # estimate FUNCTION FIRST AGAIN
  cat "$cache/durations/$job/$1" 2> /dev/null || echo "$2"
}

# The first time is no guide to the next: what was fetched and built then is there now.
remember() { # remember FUNCTION SECONDS AGAIN
  local file=$cache/durations/$job/$1 seconds=$2
  mkdir -p "${file%/*}"
  if [ ! -e "$file" ] && [ "$seconds" -gt "$3" ]; then seconds=$3; fi
  echo "$seconds" > "$file"
}

run_steps() {
  local steps=() costs=() line function first again what left=0 number=0 status=0
  while IFS= read -r line; do steps+=("$line"); done
  for line in "${steps[@]}"; do
    IFS='|' read -r function first again what <<< "${line// | /|}"
    left=$((left + $(estimate "$function" "$first" "$again")))
  done
  local job_start=$SECONDS expected began took
  for line in "${steps[@]}"; do
    IFS='|' read -r function first again what <<< "${line// | /|}"
    number=$((number + 1))
    expected=$(estimate "$function" "$first" "$again")
    echo "[$number/${#steps[@]}] $what (about $(duration "$expected"); all that is left: about $(duration "$left"))"
    began=$SECONDS
    run_step "$function" "$expected"
    took=$((SECONDS - began))
    costs+=("$(printf '%8s  %s' "$(duration "$took")" "$what")")
    [ $status = 0 ] || break
    left=$((left - expected))
    remember "$function" "$took" "$again"
  done
  printf '\nWhat it cost:\n'
  printf '%s\n' "${costs[@]}" "$(printf '%8s  all' "$(duration $((SECONDS - job_start)))")"
  [ $status = 0 ] || fail "" "The last step failed; all it printed is in out/logs/$job/$function.log."
}

# Sets `status`: a caller that asked with || would switch off the step's own `set -e`.
run_step() { # run_step FUNCTION EXPECTED
  local log=$repository/out/logs/$job/$1.log
  mkdir -p "${log%/*}"
  # A process group of its own, so that an interrupted job takes the step's children along.
  set -m
  (set -euo pipefail; "$1") > "$log" 2>&1 < /dev/null &
  step=$!
  set +m
  show_progress "$log" "$2"
  wait "$step" || status=$?
  step=
  [ $status = 0 ] || tail -n 60 "$log" >&2
}

show_progress() { # show_progress LOG EXPECTED
  local began=$SECONDS last
  while kill -0 "$step" 2> /dev/null; do
    sleep 0.2
    [ -t 1 ] || continue
    last=$(tail -c 300 "$1" | tr '\r' '\n' | grep -v '^ *$' | tail -n 1 | tr -d '\033' | cut -c1-70)
    printf '\r\033[K      %s of about %s   %s' "$(duration $((SECONDS - began)))" "$(duration "$2")" "$last"
  done
  [ ! -t 1 ] || printf '\r\033[K'
}

step=
stop_step() { [ -z "$step" ] || kill -TERM -- "-$step" 2> /dev/null || true; }
trap stop_step EXIT
trap 'exit 130' INT TERM

# Rust, Go and the machine itself are what no step installs.
check_tools() {
  require_root
  local wanted found
  wanted=$(awk -F '"' '/^rust-version/ { print $2 }' "$repository/Cargo.toml")
  found=$(rustc --version 2> /dev/null | cut -d ' ' -f 2) || true
  [ -n "$found" ] || fail "Rust $wanted or later is needed: https://rustup.rs installs it."
  not_older "$found" "$wanted" ||
    fail "Rust $wanted or later is needed, and this is $found. With rustup: rustup update stable."
  echo "Rust $found"
  "$repository/tests/cluster/cluster" check
}
