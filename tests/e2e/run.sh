#!/usr/bin/env bash
# The acceptance stories: install on this host, drive it with stock clients, uninstall, and prove the host is as before.
# Usage: run.sh [STORY...]   Environment: KNARR_BIN (program to install; default: a debug build), KNARR_CLIENTS, KEEP=1.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=${KNARR_TEST_WORK:-$root/target/test-work}
mkdir -p "$work"
export KNARR_TEST_WORK=$work
. "$here/lib.sh"
. "$here/machine.sh"

for tool in kubectl kubectl-1.27 helm3 helm4 crane registry-front; do
    command -v "$tool" >/dev/null || { echo "end to end: $tool is missing: run tests/clients/build.sh"; exit 1; }
done
if [ -z "${KNARR_BIN:-}" ]; then
    (cd "$root" && cargo build --quiet --locked --package knarr) || exit 1
    export KNARR_BIN=$root/target/debug/knarr
fi
export KUBECONFIG=/etc/knarr/knarr.yaml
. "$here/environment.sh"
# All stories end within this, in seconds: what has not begun by then has failed.
limit=${KNARR_E2E_LIMIT:-1800}
# No discovery remembered from another cluster, and none left behind.
export HOME=$work/home
rm -rf "$HOME" && mkdir -p "$HOME"
web=knarr.local/test/web:1
web2=knarr.local/test/web:2

host_state() { # what uninstall must leave as it was
    ip -o link show | awk -F': ' '{print "link", $2}'
    ip netns list 2>/dev/null | sed 's/^/netns /'
    nft list tables 2>/dev/null | sed 's/^/nft /'
    awk '$2 ~ /knarr|kubelet|containerd|netns/ {print "mount", $2}' /proc/mounts
    # The server, its runtime, shims and what they start: by program or by the data directory on their command lines;
    # not those of machines of their own, which have another pid namespace.
    ps -eo pidns=,stat=,args= | awk -v own="$(readlink /proc/self/ns/pid | tr -dc 0-9)" -v dir="${KNARR_DATA_DIR:-/var/lib/knarr}/" \
        '$1 == own && $2 !~ /^Z/ && ($3 == "/usr/local/bin/knarr" || index($0, dir)) && !/awk/ {print "process", $3}'
    ls -d /etc/knarr /var/lib/knarr /usr/local/bin/knarr /run/knarr* /var/log/knarr* /var/log/pods /var/log/containers /var/lib/cni /run/containerd 2>/dev/null | sed 's/^/file /'
    find /sys/fs/cgroup -maxdepth 3 -name 'kubepods*' 2>/dev/null | sed 's/^/cgroup /'
}

stories=$(sed -n 's/^# story: //p' "$here"/stories/*.sh)
. /dev/stdin <<<"$(cat "$here"/stories/*.sh)"
[ $# -gt 0 ] && stories=$*

# Stories over somebody's cluster would spoil both.
for left in /etc/knarr/knarr.yaml /var/lib/knarr/server; do
    if [ $# -eq 0 ] && [ -e "$left" ]; then
        echo "end to end: this host has a knarr installation ($left); take it away first: ./install.sh --uninstall"
        exit 1
    fi
done
# A machine never outlives this run, however it ends.
trap 'for machine in "$machines"/*/pid; do [ -f "$machine" ] && machine_remove "$(basename "$(dirname "$machine")")"; done' EXIT

host_state | sort >"$work/host-before"
echo "end to end: $(kubectl version --client -o yaml | awk '/gitVersion/ {print $2}')"
diagnose() { # what explains most failures
    kubectl describe nodes 2>&1 | sed -n '/^Taints:/p; /^Conditions:/,/^Addresses:/p' | cut -c1-160
    kubectl get pods -A -o wide 2>&1 | head -n 20
    kubectl get events -A 2>&1 | grep -v Normal | tail -n 15 | cut -c1-240
    grep -E ' (ERROR|WARN) ' /var/log/knarr.log 2>/dev/null | tail -n 10 | cut -c1-300
    df -h / | tail -n 1
}

# Why nothing more can be begun; empty while all is well.
broken=""
begin() { # STORY
    [ -n "$broken" ] || [ "$SECONDS" -le "$limit" ] || broken="the limit of $limit s is over"
    if [ -n "$broken" ] && [ "$1" != uninstall ]; then
        failed=$((failed + 1))
        echo "story: $1"
        echo "  FAIL not begun: $broken"
        return 1
    fi
    echo "story: $1"
}
for story in $stories; do
    begin "$story" || continue
    before=$failed
    "story_$story"
    [ "$failed" -eq "$before" ] || [ "$story" = uninstall ] || diagnose | sed 's/^/       /'
done
[ $# -gt 0 ] || { begin nodes && . "$here/nodes.sh" && . "$here/nodes/stories.sh" && nodes_stories; }
echo "$passed $failed $skipped" >"$work/e2e-counts"
echo "end to end: $passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
