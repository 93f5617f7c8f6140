# Small machines for the stories about service managers: a Debian root of its own with a real init as PID 1, in
# mount, pid, network, uts, ipc and cgroup namespaces of its own. Nothing of it is seen or left on the host.
#
#   machine_base                    builds the root that all machines are copied from (kept for the next run)
#   machine_create NAME             a fresh copy; /release in it holds install.sh and the program side by side
#   machine_boot NAME INIT          starts INIT as its PID 1
#   machine NAME COMMAND...         runs a command in it
#   machine_down NAME               ends it as a power cut does; its disk stays
#   machine_remove NAME             ends it and removes its disk

machines=$work/machines
machine_packages=systemd,systemd-sysv,dbus,openrc,containerd,runc,iproute2,procps,nftables

machine_base() {
    local suite base
    suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")
    base=$machines/base-$suite
    if [ "$(cat "$base/made-of" 2>/dev/null)" = "$machine_packages" ]; then echo "$base/root"; return; fi
    command -v debootstrap >/dev/null || { echo "debootstrap is not installed"; return 1; }
    rm -rf "$base"
    mkdir -p "$base"
    if ! debootstrap --variant=minbase --include="$machine_packages" "$suite" "$base/root" \
        "${KNARR_TEST_MIRROR:-http://deb.debian.org/debian}" >"$base/log" 2>&1; then
        echo "debootstrap failed: $(tail -n 1 "$base/log")"
        return 1
    fi
    rm -rf "$base"/root/var/cache/apt/* "$base"/root/var/lib/apt/lists/* "$base"/root/usr/share/{doc,man,locale,info}
    # Services that would change the kernel that the machine shares with this host, or that knarr does without.
    ln -sf /dev/null "$base/root/etc/systemd/system/systemd-sysctl.service"
    ln -sf /dev/null "$base/root/etc/systemd/system/systemd-binfmt.service"
    ln -sf /dev/null "$base/root/etc/systemd/system/systemd-random-seed.service"
    ln -sf /dev/null "$base/root/etc/systemd/system/containerd.service"
    rm -f "$base"/root/etc/runlevels/*/{hwclock.sh,procps,containerd}
    echo 'rc_sys="lxc"' >>"$base/root/etc/rc.conf"
    echo "$machine_packages" >"$base/made-of"
    echo "$base/root"
}

machine_create() { # NAME
    local name=$1 base
    base=$(machine_base) || { echo "$base"; return 1; }
    machine_remove "$name"
    mkdir -p "$machines/$name"
    cp -a "$base" "$machines/$name/root" || return 1
    mkdir "$machines/$name/root/release"
    cp "$root/install.sh" "$KNARR_BIN" "$machines/$name/root/release/" || return 1
    cp "$(command -v kubectl)" "$machines/$name/root/usr/local/bin/kubectl"
    cp /bin/busybox "$machines/$name/root/usr/local/bin/busybox"
    echo "$name" >"$machines/$name/root/etc/hostname"
    # What an installer, not debootstrap, puts there; containerd makes the pods' from the first.
    printf '127.0.0.1 localhost\n192.0.2.10 %s\n' "$name" >"$machines/$name/root/etc/hosts"
    : >"$machines/$name/root/etc/resolv.conf"
}

# The machine's control groups, one a hierarchy, below the ones that this process is in.
machine_cgroups() { # NAME
    local name=$1 id controllers path mount
    while IFS=: read -r id controllers path; do
        if [ "$id" = 0 ]; then
            mount=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)
        else
            mount=$(awk -v want=",$controllers," '$3 == "cgroup" && index("," $4 ",", want) {print $2; exit}' /proc/mounts)
        fi
        [ -n "$mount" ] && echo "$mount${path%/}/knarr-machine-$name"
    done </proc/self/cgroup
}

machine_boot() { # NAME INIT
    local name=$1 init=$2 dir=$machines/$1 groups launcher
    groups=$(machine_cgroups "$name" | tr '\n' ' ')
    (
        # All groups by their old names first: they are named from where this shell is.
        for group in $groups; do
            if mkdir "$group" 2>/dev/null && [ -e "$group/cpuset.cpus" ]; then
                cat "${group%/*}/cpuset.cpus" >"$group/cpuset.cpus"
                cat "${group%/*}/cpuset.mems" >"$group/cpuset.mems"
            fi
            echo "$BASHPID" >"$group/cgroup.procs" || exit 1
        done
        exec unshare --mount --pid --net --uts --ipc --cgroup --fork --kill-child \
            "$here/machine-init.sh" "$dir/root" "$name" "$init" </dev/null >"$dir/console" 2>&1
    ) &
    launcher=$!
    echo "$groups" >"$dir/groups"
    # The launcher has helpers of its own before it becomes `unshare`, whose one child is the machine's first process.
    if ! within 10 eval "test \$(cat /proc/$launcher/comm) = unshare && pgrep -P $launcher >'$dir/pid'"; then
        rm -f "$dir/pid"
        tail -n 5 "$dir/console"
        return 1
    fi
    # It is up when it has left this host's root behind.
    within 10 machine "$name" test -d /release
}

machine() { # NAME COMMAND...
    local name=$1 group
    shift
    (
        for group in $(cat "$machines/$name/groups"); do echo "$BASHPID" >"$group/cgroup.procs" || exit 1; done
        exec nsenter --target "$(cat "$machines/$name/pid")" --mount --pid --net --uts --ipc --cgroup --root --wd \
            env -i PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root TERM=dumb \
            KUBECONFIG=/etc/knarr/knarr.yaml "$@"
    )
}

machine_down() { # NAME
    local name=$1 pid group
    pid=$(cat "$machines/$name/pid" 2>/dev/null) || return 0
    # The kernel ends everything in the pid namespace with its first process.
    kill -9 "$pid" 2>/dev/null
    within 30 bash -c "! test -d /proc/$pid" || return 1
    rm "$machines/$name/pid"
    for group in $(cat "$machines/$name/groups"); do
        within 10 bash -c "find '$group' -depth -type d -exec rmdir {} + 2>&1; ! test -d '$group'" || return 1
    done
}

machine_remove() { # NAME
    machine_down "$1" >/dev/null
    rm -rf --one-file-system "${machines:?}/$1"
}
