#!/usr/bin/env bash
# A test bed of several nodes on one machine. Each node is a set of namespaces (network, mounts, processes, control
# groups, host name) with its own containerd and its own knarr; a bridge joins them in one more network namespace.
# Nothing of the host is touched: no link, route, rule, mount, or file outside the bed's directory and /sys/fs/cgroup.
#
#   nodes.sh up [N]            makes the bed with N nodes (default 2): node1 is the server, the others are agents
#   nodes.sh exec NODE CMD...  runs a command in a node (node1 or 1)
#   nodes.sh run CMD...        runs a command beside the nodes, with KUBECONFIG set: a client on the nodes' network
#   nodes.sh kubeconfig        prints the path of the administrator's kubeconfig (for use with `run`)
#   nodes.sh import FILE...    imports image archives on every node
#   nodes.sh cut|heal NODE     takes the node's network away, and gives it back
#   nodes.sh kill NODE         kill -9 of the node's knarr (containers live on)
#   nodes.sh start NODE        starts it (again)
#   nodes.sh logs NODE         prints knarr's log
#   nodes.sh names             prints the nodes
#   nodes.sh down              takes everything apart; may be repeated
#
# Environment: KNARR_BED (directory, default /tmp/knarr-bed), KNARR_BIN (default: a debug build),
# KNARR_BED_SERVER_ARGS, KNARR_BED_AGENT_ARGS (more arguments), KNARR_BED_REGISTRIES (a registries.yaml for every node). Can be sourced: then `bed_up`, `bed_exec`, ... are functions.
bed_here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bed_root=$(cd "$bed_here/../.." && pwd)
bed=${KNARR_BED:-/tmp/knarr-bed}
# A name for the control groups of this bed: beds in different directories do not meet.
bed_id=knarr-bed-$(printf '%s' "$bed" | cksum | cut -d' ' -f1)
bed_subnet=10.99.0
. "$bed_here/environment.sh"
bed_clients=${KNARR_CLIENTS:-$bed_root/target/clients}

bed_fail() { echo "bed: $*" >&2; return 1; }

bed_name() { # NODE: node3 and 3 are the same
    case $1 in node*) echo "$1" ;; *) echo "node$1" ;; esac
}

# The process that holds a node's (or the bed's) namespaces, if it lives. Its command line names the bed's directory,
# so a number that was given to another process is not taken for it.
bed_pid() { # NAME
    local pid
    pid=$(cat "$bed/$1.pid" 2>/dev/null) || return 1
    tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF " $bed $1 " || return 1
    echo "$pid"
}

bed_nodes() {
    local file
    for file in "$bed"/node*.pid; do
        [ -e "$file" ] && basename "$file" .pid
    done | sort -V
}

bed_exec() { # NODE CMD...
    local node pid
    node=$(bed_name "$1")
    shift
    pid=$(bed_pid "$node") || { bed_fail "$node is not up"; return 1; }
    nsenter -t "$pid" --mount --uts --ipc --net --pid --cgroup --wd=/ -- \
        env PATH="$bed/bin:$PATH" KUBECONFIG=/etc/knarr/knarr.yaml "$@"
}

bed_run() { # CMD...: on the nodes' network, with the host's files
    local pid
    pid=$(bed_pid switch) || { bed_fail "it is not up"; return 1; }
    nsenter -t "$pid" --net -- env PATH="$bed_clients:$PATH" KUBECONFIG="$bed/kubeconfig" HOME="$bed/home" "$@"
}

bed_kubectl() { bed_run kubectl "$@"; }

bed_hold() { # NAME PROGRAM...: runs a holder in the background and waits until it has written that it is ready
    local name=$1
    shift
    rm -f "$bed/$name.ready"
    setsid "$@" "$bed_here/nodes/hold.sh" "$bed" "$name" "$bed_subnet" </dev/null >"$bed/$name.log" 2>&1 &
    local _
    for _ in $(seq 100); do
        [ -e "$bed/$name.ready" ] && return 0
        kill -0 $! 2>/dev/null || break
        sleep 0.1
    done
    cat "$bed/$name.log" >&2
    bed_fail "$name did not come up"
}

# Puts this shell into the node's control group of every hierarchy, so that a control group namespace begins there.
bed_enter_cgroups() { # NODE
    local dir group file set
    for dir in /sys/fs/cgroup /sys/fs/cgroup/*/; do
        [ -e "$dir/cgroup.procs" ] || continue
        group=${dir%/}/$bed_id/$1
        mkdir -p "$group" || return 1
        # A new group of CPU sets has none.
        for file in cpuset.cpus cpuset.mems; do
            for set in "${dir%/}/$bed_id" "$group"; do
                [ -e "$set/$file" ] && [ -z "$(cat "$set/$file")" ] && cat "${dir%/}/$file" >"$set/$file"
            done
        done
        echo "$BASHPID" >"$group/cgroup.procs" || return 1
    done
}

bed_add_node() { # N
    local node=node$1 pid switch
    mkdir -p "$bed/$node"/{etc,etc-work,lib,log}
    (
        bed_enter_cgroups "$node" || exit 1
        bed_hold "$node" unshare --net --mount --pid --fork --kill-child --uts --ipc --cgroup --propagation private -- bash
    ) || return 1
    pid=$(bed_pid "$node") && switch=$(bed_pid switch) || return 1
    nsenter -t "$switch" --net -- ip link add "v$1" type veth peer name eth0 netns "$pid" || return 1
    nsenter -t "$switch" --net -- ip link set "v$1" master br0 up
    nsenter -t "$pid" --net -- ip address add "$bed_subnet.$1/24" dev eth0
    nsenter -t "$pid" --net -- ip link set eth0 up
    nsenter -t "$pid" --net -- ip route add default via "$bed_subnet.254"
    [ -z "${KNARR_BED_REGISTRIES:-}" ] || bed_exec "$node" install -D -m 600 /dev/stdin /etc/knarr/registries.yaml <"$KNARR_BED_REGISTRIES"
}

bed_start() { # NODE: starts knarr in it
    local node role args
    node=$(bed_name "$1")
    if [ "$node" = node1 ]; then role=server args=${KNARR_BED_SERVER_ARGS:-}
    else
        role=agent args="--server https://$bed_subnet.1:6443 --token-file /run/knarr-token ${KNARR_BED_AGENT_ARGS:-}"
        bed_exec 1 cat /var/lib/knarr/server/token | bed_exec "$node" sh -c 'cat >/run/knarr-token' || return 1
    fi
    # shellcheck disable=SC2086
    bed_exec "$node" bash -c 'setsid "$@" </dev/null >>/var/log/knarr.log 2>&1 & echo $! >/run/knarr.pid' start \
        "$bed/bin/knarr" $role --node-name "$node" --node-ip "$bed_subnet.${node#node}" $args
}

bed_kill() { # NODE: knarr alone, at once
    bed_exec "$1" bash -c 'kill -9 "$(cat /run/knarr.pid)"; while [ -e "/proc/$(cat /run/knarr.pid)" ]; do sleep 0.05; done'
}

bed_logs() { cat "$bed/$(bed_name "$1")/log/knarr.log"; }

bed_cut() { bed_link "$1" down; }
bed_heal() { bed_link "$1" up; }
bed_link() {
    local node
    node=$(bed_name "$1")
    nsenter -t "$(bed_pid switch)" --net -- ip link set "v${node#node}" "$2"
}

bed_import() { # FILE...
    local node
    for node in $(bed_nodes); do
        bed_exec "$node" knarr image import "$@" || return 1
    done
}

bed_ready() { # N: so many nodes are Ready
    [ "$(bed_kubectl get nodes --no-headers 2>/dev/null | awk '$2 == "Ready"' | wc -l)" -ge "$1" ]
}

bed_wait() { # SECONDS COMMAND...
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.2
    done
}

bed_up() { # [N]
    local n=${1:-2} i bin=${KNARR_BIN:-}
    [ "$(id -u)" = 0 ] || { bed_fail "needs root"; return 1; }
    bed_pid switch >/dev/null && { bed_fail "$bed is up; take it down first"; return 1; }
    bed_down || return 1
    if [ -z "$bin" ]; then
        (cd "$bed_root" && cargo build --quiet --locked --package knarr) || return 1
        bin=$bed_root/target/debug/knarr
    fi
    mkdir -p "$bed/bin" "$bed/home"
    # A name of its own: knarr's CNI programs are links to where it was started from.
    ln -f "$bin" "$bed/bin/knarr" 2>/dev/null || cp "$bin" "$bed/bin/knarr"
    bed_hold switch unshare --net -- bash || return 1
    for i in $(seq "$n"); do
        bed_add_node "$i" || { bed_fail "node$i cannot be made"; return 1; }
    done
    bed_start 1 || return 1
    bed_wait 60 bed_exec 1 test -s /etc/knarr/knarr.yaml || { bed_logs 1 | tail -n 30; bed_fail "the server does not start"; return 1; }
    (umask 077 && bed_exec 1 cat /etc/knarr/knarr.yaml | sed "s/127.0.0.1/$bed_subnet.1/" >"$bed/kubeconfig")
    bed_wait 60 bed_ready 1 || { bed_logs 1 | tail -n 30; bed_fail "node1 does not become Ready"; return 1; }
    for i in $(seq 2 "$n"); do
        bed_start "$i" || return 1
    done
    bed_wait 90 bed_ready "$n" || {
        for i in $(seq 2 "$n"); do bed_logs "$i" | tail -n 20; done
        bed_fail "not all nodes become Ready"
        return 1
    }
    echo "bed: $n nodes Ready, $bed_subnet.1 to $bed_subnet.$n; kubeconfig $bed/kubeconfig"
}

bed_down() {
    local name pid dir failed=0
    for name in $(bed_nodes) switch; do
        # The first process of a process namespace takes all others with it.
        pid=$(bed_pid "$name") || continue
        kill -9 "$pid"
        while [ -e "/proc/$pid" ]; do sleep 0.05; done
    done
    for dir in /sys/fs/cgroup /sys/fs/cgroup/*/; do
        name=${dir%/}/$bed_id
        [ ! -d "$name" ] || bed_wait 20 bed_remove_cgroup "$name" || { bed_fail "$name is still in use"; failed=1; }
    done
    [ ! -d "$bed" ] || bed_wait 20 rm -rf "$bed" 2>/dev/null || { rm -rf "$bed"; failed=1; }
    return $failed
}

bed_remove_cgroup() { # DIR: with those below it
    find "$1" -depth -type d -exec rmdir {} + 2>/dev/null
    [ ! -d "$1" ]
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    set -uo pipefail
    command=${1:-help}
    [ $# -gt 0 ] && shift
    case $command in
        up | down | exec | run | import | cut | heal | kill | start | logs) "bed_$command" "$@" ;;
        names) bed_nodes ;;
        kubeconfig) echo "$bed/kubeconfig" ;;
        *) sed -n '2,/^bed_here/{/^bed_here/!s/^# \{0,1\}//p}' "$0"; [ "$command" = help ] ;;
    esac
fi
