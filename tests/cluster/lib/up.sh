# From nothing to ready nodes, and back.

up() { # up NODES: none is a control plane alone
  local started=$SECONDS port number roles=control-plane
  if is_up && [ "$(cat "$state/complete")" = "$1" ] && kubectl get --raw /readyz > /dev/null 2>&1; then
    echo "the cluster $name is already up"
    return
  fi
  down
  rm -rf "${state:?}/log"
  mkdir -p "$state"/{data,forward,log,nodes,volumes}
  make_pki "$state/pki" "$1"
  make_cgroups
  [ "$1" = 0 ] || roles+=" worker"
  start_namespaces "$roles"
  port=$(free_port)
  start_forward api "$port" UNIX-CONNECT:api.sock
  make_kubeconfigs "$state" "$port" "$1"
  wait_for "the API server" kubectl get --raw /readyz
  wait_for "the controller manager" kubectl get serviceaccount default
  wait_for "the first node's parts" test -p "$state/nodes/node1/start"
  for number in $(seq 2 "$1"); do echo "node$number" > "$state/nodes/node1/start"; done
  for number in $(seq "$1"); do complete_node "node$number"; done
  [ "$1" = 0 ] || complete_cluster
  echo "$1" > "$state/complete"
  echo "the cluster $name is up after $((SECONDS - started)) s"
}

# Leaves the logs and the choice of a port.
down() {
  stop_everything
  rm -rf "${state:?}"/{api.sock,complete,data,forward,kubeconfig,kubeconfigs,kubectl,nodes,pki,volumes}
}

complete_node() { # complete_node NODE
  wait_for "the node $1" kubectl wait "node/$1" --for=condition=Ready --timeout=10s
  # No GPU is here, but the scheduler counts them as if there were: both figures, or the kubelet puts them back.
  kubectl patch node "$1" --subresource=status --type=merge --patch \
    '{"status": {"capacity": {"nvidia.com/gpu": "8"}, "allocatable": {"nvidia.com/gpu": "8"}}}' > /dev/null
}

complete_cluster() {
  kubectl apply --filename "$source/config/dns.yaml" --filename "$source/config/storage-class.yaml" > /dev/null
  make_volumes | kubectl apply --filename - > /dev/null
  wait_for "cluster DNS" inside getent hosts kubernetes.default.svc.cluster.local
}

# The cluster's storage: folders that every node sees, which claims of the default class bind to. Containers run as user 65532.
make_volumes() {
  local number
  for number in $(seq -w 1 20); do
    install -d -o 65532 -g 65532 "$state/volumes/$number"
    cat << YAML
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: volume-$number}
spec:
  storageClassName: standard
  capacity: {storage: 20Gi}
  accessModes: [ReadWriteOnce, ReadOnlyMany, ReadWriteMany]
  persistentVolumeReclaimPolicy: Retain
  hostPath: {path: /run/cluster/volumes/$number, type: Directory}
YAML
  done
}

# Each cluster keeps its port for as long as it can, so that a kubeconfig in use stays right.
free_port() {
  local port
  for port in "$(cat "$state/port" 2> /dev/null || echo 26443)" $(seq 26443 26543); do
    if port_is_free "$port"; then
      echo "$port" | tee "$state/port"
      return
    fi
  done
  fail "No port between 26443 and 26543 of 127.0.0.1 is free."
}

wait_for() { # wait_for WHAT COMMAND...
  local what=$1 deadline=$((SECONDS + 120))
  shift
  until "$@" > /dev/null 2>&1; do
    process "$state/namespaces" > /dev/null || fail "The cluster ended while it started; see $state/log/init.log."
    [ $SECONDS -lt $deadline ] || fail "Gave up waiting for $what; see the logs in $state/log."
    sleep 0.2
  done
}
