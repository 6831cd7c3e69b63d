# Faults of the network, for tests.

# Drops every packet between two addresses or networks, in both directions, wherever it passes: on the nodes that have
# the two and on those between them. A connection that is open then stays open and silent, as when a cable is cut.
partition() { on_each_node change_partition --insert "$1" "$2"; } # partition ADDRESS ADDRESS
heal() { on_each_node change_partition --delete "$1" "$2"; } # heal ADDRESS ADDRESS

change_partition() { # change_partition --insert|--delete ADDRESS ADDRESS
  local chain
  for chain in INPUT OUTPUT FORWARD; do
    inside iptables --wait "$1" "$chain" --source "$2" --destination "$3" --jump DROP
    inside iptables --wait "$1" "$chain" --source "$3" --destination "$2" --jump DROP
  done
}

# Takes a node's cable away, and puts it back. The node goes on by itself.
cut_node() { link "$1" down; }
mend_node() { link "$1" up; }

link() { # link NODE up|down
  [[ $1 = node[2-9] ]] || fail "'$1' has no cable: node1 has the control plane, and the others are cabled to it."
  local node=node1 # of `inside`
  inside ip link set "$1" "$2"
}
