# The cgroup (version 1) hierarchies of this machine and a cluster's group in each.

mountinfo=/proc/self/mountinfo
cgroup_v1_mounts() { awk '$(NF - 2) == "cgroup" { print $5 }' $mountinfo; }

require_cgroup_v1() {
  if cgroup_v1_mounts | grep -qw memory; then return; fi
  fail "This machine has cgroup version 2 alone; the test cluster was only ever tried with version 1 and does not start here." \
    "Use a cluster of your own instead: see \"On a cluster of your own\" in README.md (the same chart and samples)."
}

make_cgroups() {
  local hierarchy file
  for hierarchy in $(cgroup_v1_mounts); do
    mkdir -p "$hierarchy/$cgroup"
    [ -e "$hierarchy/cpuset.cpus" ] || continue
    # A new cpuset is empty and takes no process until it is filled.
    for file in cpuset.cpus cpuset.mems; do cat "$hierarchy/$file" > "$hierarchy/$cgroup/$file"; done
    echo 1 > "$hierarchy/$cgroup/cgroup.clone_children"
  done
}

join_cgroups() {
  local hierarchy
  for hierarchy in $(cgroup_v1_mounts); do echo $BASHPID > "$hierarchy/$cgroup/cgroup.procs"; done
}

# Removes the groups once the last process has left them; it has been killed, but ends when the kernel gets to it.
remove_cgroups() {
  local hierarchy deadline=$((SECONDS + 30))
  for hierarchy in $(cgroup_v1_mounts); do
    until [ ! -d "$hierarchy/$cgroup" ] || find "$hierarchy/$cgroup" -depth -type d -exec rmdir {} + 2> /dev/null; do
      [ $SECONDS -lt $deadline ] || fail "Processes are left in $hierarchy/$cgroup."
      sleep 0.1
    done
  done
}
