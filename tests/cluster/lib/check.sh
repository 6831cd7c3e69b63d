# What no step can install. It is looked for first: half an hour of builds must not end with "not on this machine".

least_go=1.26

check() {
  require_root
  require_cgroup_v1
  require_disk
  require_go
  echo "Go $(go env GOVERSION | sed 's/^go//'), cgroup version 1, $(free_gigabytes) GB of free disk"
}

require_root() { [ "$(id -u)" = 0 ] || fail "Namespaces and cgroups need root: run this as root."; }

not_older() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; } # not_older FOUND WANTED

require_go() {
  command -v go > /dev/null || fail "Go $least_go or later is needed to build Kubernetes: https://go.dev/dl/ has it."
  local found
  found=$(go env GOVERSION | sed 's/^go//')
  not_older "$found" $least_go ||
    fail "Go $least_go or later is needed to build Kubernetes, and $found is installed: https://go.dev/dl/ has a newer one."
}

free_gigabytes() { df --block-size=1G --output=avail "$cache" | tail -n 1 | tr -d ' '; }

# Containers' files are overlays, and an overlay cannot lie on another, such as the root of a container.
require_disk() {
  mkdir -p "$cache"
  [ "$(stat --file-system --format=%T "$cache")" != overlayfs ] ||
    fail "$cache is on an overlay file system, where containers cannot start. Set XDG_CACHE_HOME to a folder on a disk."
  # The Go modules of Kubernetes with Go's build cache take 8 GB, the Rust crates 3 more.
  local wanted=15
  [ ! -e "$(programs_folder)/complete" ] || wanted=3
  [ "$(free_gigabytes)" -ge $wanted ] ||
    fail "$cache has $(free_gigabytes) GB of free disk, and $wanted are needed. XDG_CACHE_HOME names another place."
}
