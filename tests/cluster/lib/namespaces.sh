# The private namespaces of a cluster: started, entered and ended from outside.

# A process id is used again some day: with its start time it is unmistakable.
# Prints nothing for a process that has ended, be it still listed as a zombie.
start_time() { awk '{ sub(/^.*\) /, "") } $1 != "Z" { print $20 }' "/proc/$1/stat" 2> /dev/null; }

remember_process() { echo "$1 $(start_time "$1")" > "$2"; } # remember_process PID FILE

process() { # process FILE: prints the id if that very process is still there
  local pid started
  read -r pid started 2> /dev/null < "$1" || return 1
  [ -n "$pid" ] && [ "$(start_time "$pid")" = "$started" ] && echo "$pid"
}

is_up() { [ -e "$state/complete" ] && process "$state/namespaces" > /dev/null; }

require_up() { is_up || fail "The cluster $name is not up. Start it with: $0 up $name"; }

# Killing `unshare` kills process 1 of its process namespace, and with it every process, mount and link of the cluster.
start_namespaces() { # start_namespaces "ROLE..."
  local roles
  read -ra roles <<< "$1"
  (
    exec 8>&- 9>&- # the caller's locks
    join_cgroups
    exec setsid unshare --net --mount --pid --cgroup --uts --ipc --fork --kill-child=SIGKILL \
      "$source/init" "$state" "$(programs_folder)" "$source" node1 "${roles[@]}"
  ) > "$state/log/init.log" 2>&1 < /dev/null &
  remember_process $! "$state/namespaces"
}

# Host processes that carry connections into the cluster.
start_forward() { # start_forward NAME PORT TARGET
  (
    exec 8>&- 9>&-
    cd "$state" || exit
    exec setsid socat "TCP-LISTEN:$2,bind=127.0.0.1,reuseaddr,fork" "$3"
  ) > "$state/log/forward-$1.log" 2>&1 < /dev/null &
  remember_process $! "$state/forward/$1"
}

port_is_free() { ! (exec 3<> "/dev/tcp/127.0.0.1/$1") 2> /dev/null; }

first_process() { # the host's id of process 1 in the namespaces
  local parent
  parent=$(process "$state/namespaces") || fail "The cluster $name is not up."
  cat "/proc/$parent/task/$parent/children"
}

namespaces=(--net --mount --root --pid --cgroup --uts --ipc)

inside() { # inside COMMAND...: on the selected node
  local further=()
  # The namespaces of a further node lie within the first's, where its process 1 is the child of the part of its name.
  # shellcheck disable=SC2016 # the inner shell's variables
  [ "$node" = node1 ] || further=(bash -c '
    read -r part < "/run/cluster/nodes/node1/pid/$1"
    init=$(cat "/proc/$part/task/$part/children" 2> /dev/null)
    [ -n "$init" ] || { echo "The node $1 does not run." >&2; exit 1; }
    exec nsenter --target "${init% }" "${@:2}"' - "$node" "${namespaces[@]}" --)
  PATH=/run/programs:$PATH KUBECONFIG=/run/cluster/kubeconfigs/admin \
    nsenter --target "$(first_process | tr -d ' ')" "${namespaces[@]}" -- "${further[@]}" "$@"
}

on_each_node() { # on_each_node COMMAND...
  local node
  for node in $(nodes); do "$@"; done
}

nodes() { find "$state/nodes" -mindepth 1 -maxdepth 1 -printf '%f\n' | sort; }

stop_everything() {
  local file pid
  for file in "$state"/forward/* "$state/namespaces"; do
    if pid=$(process "$file"); then kill -KILL "$pid"; fi
    rm -f "$file"
  done
  remove_cgroups
}
