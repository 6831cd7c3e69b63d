# From nothing to a ready node, and back.

up() { # up ROLE
  if is_up && [ "$(cat "$state/complete")" = "$1" ] && kubectl get --raw /readyz > /dev/null 2>&1; then
    echo "the cluster $name is already up"
    return
  fi
  down
  rm -rf "${state:?}/log"
  mkdir -p "$state"/{data,forward,log,pid,volumes}
  local started=$SECONDS port
  make_pki "$state/pki"
  make_cgroups
  start_namespaces "$1"
  port=$(free_port)
  start_forward api "$port" UNIX-CONNECT:api.sock
  make_kubeconfigs "$state" "$port"
  wait_for "the API server" kubectl get --raw /readyz
  wait_for "the controller manager" kubectl get serviceaccount default
  [ "$1" = control-plane ] || complete_node
  echo "$1" > "$state/complete"
  echo "the cluster $name is up after $((SECONDS - started)) s"
}

# Leaves the logs and the choice of a port.
down() {
  stop_everything
  rm -rf "${state:?}"/{api.sock,complete,data,forward,kubeconfig,kubeconfigs,kubectl,pid,pki,start,volumes}
}

complete_node() {
  wait_for "the node" kubectl wait node/node1 --for=condition=Ready --timeout=10s
  kubectl apply --filename "$source/config/dns.yaml" --filename "$source/config/storage-class.yaml" > /dev/null
  make_volumes | kubectl apply --filename - > /dev/null
  # No GPU is here, but the scheduler counts them as if there were: both figures, or the kubelet puts them back.
  kubectl patch node node1 --subresource=status --type=merge --patch \
    '{"status": {"capacity": {"nvidia.com/gpu": "8"}, "allocatable": {"nvidia.com/gpu": "8"}}}' > /dev/null
  wait_for "cluster DNS" inside getent hosts kubernetes.default.svc.cluster.local
}

# The cluster's storage: folders of the node that a claim of the default class binds to. Containers run as user 65532.
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
