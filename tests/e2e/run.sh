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

for tool in kubectl kubectl-1.27 helm3 helm4 crane; do
    command -v "$tool" >/dev/null || { echo "end to end: $tool is missing: run tests/clients/build.sh"; exit 1; }
done
if [ -z "${KNARR_BIN:-}" ]; then
    (cd "$root" && cargo build --quiet --locked --package knarr) || exit 1
    export KNARR_BIN=$root/target/debug/knarr
fi
export KUBECONFIG=/etc/knarr/knarr.yaml
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

# A machine never outlives this run, however it ends.
trap 'for machine in "$machines"/*/pid; do [ -f "$machine" ] && machine_remove "$(basename "$(dirname "$machine")")"; done' EXIT

host_state | sort >"$work/host-before"
echo "end to end: $(kubectl version --client -o yaml | awk '/gitVersion/ {print $2}')"
for story in $stories; do
    echo "story: $story"
    "story_$story"
done
[ $# -gt 0 ] || { . "$here/nodes.sh" && . "$here/nodes/stories.sh" && nodes_stories; }
echo "$passed $failed $skipped" >"$work/e2e-counts"
echo "end to end: $passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
