#!/usr/bin/env bash
# First process of a test machine (machine.sh): makes the root its own, with network and control groups, and becomes its init.
# Runs in fresh mount, pid, network, uts, ipc and cgroup namespaces. Usage: machine-init.sh ROOT NAME INIT
set -euo pipefail
root=$1 name=$2 init=$3
hostname "$name"
mount --bind "$root" "$root"
cd "$root"

mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for node in null zero full random urandom tty; do
    touch "dev/$node"
    mount --bind "/dev/$node" "dev/$node"
done
mkdir dev/pts dev/shm dev/mqueue
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t mqueue mqueue dev/mqueue
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr

# The same hierarchies as on the host; in this cgroup namespace each begins at the machine's own group.
if grep -q '^[1-9]' /proc/self/cgroup; then
    mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
    while IFS=: read -r id controllers _; do
        case $id:$controllers in
        0:*) dir=unified type=cgroup2 options=rw ;;
        *:name=*) dir=${controllers#name=} type=cgroup options=none,$controllers ;;
        *) dir=$controllers type=cgroup options=$controllers ;;
        esac
        mkdir "sys/fs/cgroup/$dir"
        mount -t "$type" -o "$options" cgroup "sys/fs/cgroup/$dir"
    done </proc/self/cgroup
else
    mount -t cgroup2 cgroup2 sys/fs/cgroup
fi

ip link set lo up
ip link add uplink type veth peer name upstream
ip address add 192.0.2.10/24 dev uplink
ip link set upstream up
ip link set uplink up
ip route add default via 192.0.2.1

mkdir -p .host
pivot_root . .host
umount -l /.host
rmdir /.host
exec env -i container=knarr-test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb "$init"
