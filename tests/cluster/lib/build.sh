# The programs that are built from Go modules, once for each content of programs/ and of this file.

programs_folder() {
  local digest
  digest=$(cd "$source" && find programs lib/build.sh "$repository/images/archive" -type f | LC_ALL=C sort | xargs cat | sha256sum)
  echo "$cache/programs/${digest:0:12}"
}

build_programs() {
  local folder name package version
  folder=$(programs_folder)
  [ ! -e "$folder/complete" ] || return 0
  require_go
  mkdir -p "$folder"
  export CGO_ENABLED=0 GOFLAGS=
  (
    exec 8> "$cache/programs/lock"
    flock 8 # two clusters that start at once build once
    [ ! -e "$folder/complete" ] || exit 0
    build_kubernetes "$folder"
    while read -r name package version; do
      [ "${name:-#}" = "#" ] || build_module "$folder" "$name" "$package" "$version"
    done < "$source/programs/versions"
    build_pause "$folder"
    touch "$folder/complete"
  )
}

build_kubernetes() {
  local version name
  version=$(cd "$source/programs/kubernetes" && go list -m -f '{{.Version}}' k8s.io/kubernetes)
  echo "building Kubernetes $version (about 6 minutes the first time, on two cores)"
  (cd "$source/programs/kubernetes" &&
    go build -trimpath -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$version" -o "$1/kubernetes" .)
  for name in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl; do
    ln -sf kubernetes "$1/$name"
  done
}

build_module() {
  echo "building $2 $4 (about 2 minutes the first time)"
  GOBIN=$1 go install -trimpath -ldflags "-s -w" "$3@$4"
}

# The image of the process that holds a pod's namespaces open.
build_pause() {
  local root
  root=$(mktemp -d)
  (cd "$source/programs/pause" && go build -trimpath -ldflags "-s -w" -o "$root/pause" .)
  "$repository/images/archive" "$root" localhost/pause:1 65535:65535 "$1/pause.tar" /pause > /dev/null
  rm -r "$root"
}
