#!/usr/bin/env bash
# Holds the namespaces of a bed's node or of its switch; started by nodes.sh. Arguments: DIRECTORY NAME SUBNET.
set -euo pipefail
bed=$1 name=$2 subnet=$3

switch() {
    ip link set lo up
    ip link add br0 type bridge
    ip address add "$subnet.254/24" dev br0
    ip link set br0 up
    echo "$BASHPID" >"$bed/$name.pid"
}

# The control groups as this namespace sees them, at the place where everybody looks.
cgroups() {
    local options dir
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        umount -l /sys/fs/cgroup
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
        # Groups with processes of their own cannot hand resources down.
        mkdir /sys/fs/cgroup/init
        echo 0 >/sys/fs/cgroup/init/cgroup.procs
        sed 's/[^ ]*/+&/g' /sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control
        return
    fi
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    while read -r dir options; do
        mkdir -p "/sys/fs/cgroup/$dir"
        mount -t cgroup -o "$options" cgroup "/sys/fs/cgroup/$dir"
    done <"$bed/$name/hierarchies"
}

node() {
    local own=$bed/$name key outside=
    # This is process 1 here; what it is outside stands in the outside's view, which is still mounted.
    while read -r key outside _; do
        [ "$key" = NSpid: ] && break
    done </proc/self/status
    awk '$3 == "cgroup" {n = split($4, o, ","); keep = ""; for (i = 1; i <= n; i++) if (o[i] !~ /^(rw|ro|nosuid|nodev|noexec|relatime|release_agent=.*|clone_children)$/) keep = keep (keep == "" ? "" : ",") o[i]; sub(".*/", "", $2); print $2, keep}' \
        /proc/mounts >"$own/hierarchies"
    mount -t proc proc /proc
    mount -t sysfs sysfs /sys
    cgroups
    mount -t overlay -o "lowerdir=/etc,upperdir=$own/etc,workdir=$own/etc-work" overlay /etc
    # What a knarr of the host has there is not this node's.
    rm -rf /etc/knarr
    mkdir -p /var/lib/knarr
    mount --bind "$own/lib" /var/lib/knarr
    mount --bind "$own/log" /var/log
    mount -t tmpfs -o mode=755 tmpfs /run
    hostname "$name"
    echo "$name" >/etc/hostname
    printf '%s  %s\n' "$name" "$bed" | md5sum | cut -c1-32 >/etc/machine-id
    # Names of the world are nobody's business here; a server that does not answer would make every question wait.
    echo "options timeout:1" >/etc/resolv.conf
    ip link set lo up
    echo "$outside" >"$bed/$name.pid"
}

case $name in
    switch) switch ;;
    *) node ;;
esac
touch "$bed/$name.ready"
# Process 1 also takes leave of processes whose parents have ended; bash does so whenever a child of its own ends.
trap 'exit 0' TERM
while :; do
    sleep 2 &
    wait $!
done
