# What is taken from the operating system: each line is a program (or file) and the Debian package that has it.

# Some crates compile C and C++, one of them with cmake; images get the system's certificate authorities.
needs() { # needs [tests]
  cat << 'NEEDS'
cc gcc
c++ g++
/usr/include/stdio.h libc6-dev
make make
cmake cmake
/etc/ssl/certs/ca-certificates.crt ca-certificates
etcd etcd-server
containerd containerd
runc runc
/usr/lib/cni/bridge containernetworking-plugins
ip iproute2
iptables iptables
conntrack conntrack
socat socat
openssl openssl
curl curl
nsenter util-linux
NEEDS
  [ "${1:-}" != tests ] || cat << 'NEEDS'
shellcheck shellcheck
pip3 python3-pip
NEEDS
}

present() { case $1 in /*) [ -e "$1" ] ;; *) command -v "$1" > /dev/null ;; esac }

install_packages() { # install_packages [tests]
  local program package missing=()
  while read -r program package; do
    present "$program" || missing+=("$package")
  done < <(needs "$@")
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get > /dev/null ||
    fail "This is not Debian or Ubuntu. Install these programs by hand (Debian's names): ${missing[*]}."
  echo "installing ${missing[*]}"
  apt-get update -qq
  # --no-remove: containerd of another origin (Docker's) is used as it is, never replaced.
  without_services env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends --no-remove "${missing[@]}" > /dev/null
}

# Debian starts a package's service when it is installed, unless this file says no; the cluster runs its own processes.
without_services() {
  local policy=/usr/sbin/policy-rc.d
  if [ -e $policy ]; then "$@"; return; fi
  printf '#!/bin/sh\nexit 101\n' > $policy
  chmod +x $policy
  local result=0
  "$@" || result=$?
  rm $policy
  return $result
}
