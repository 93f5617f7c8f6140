#!/usr/bin/env bash
# The part of the official behaviours that runs at every change: all that are known to pass, but for those that must run
# alone or take their time, on a bed of two nodes (tests/e2e/nodes.sh). Needs root, Go and kubectl (tests/clients/build.sh).
# Usage: slice.sh [flags of knarr-conformance]   Environment: KNARR_BIN, KNARR_BED, KNARR_CLIENTS, KNARR_TEST_WORK.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=${KNARR_TEST_WORK:-$root/target/test-work}
clients=${KNARR_CLIENTS:-$root/target/clients}
export KNARR_BED=${KNARR_BED:-/tmp/knarr-slice}
mkdir -p "$work" && rm -f "$work/conformance.log"
# What waits for minutes by its nature, and what needs images that take minutes to build (images/aggregated.sh); a whole
# run has them.
slow='\[Serial\]|\[Slow\]|should \*not\* be restarted with|monotonically increasing restart count|CronJob should (schedule multiple|replace jobs)'
slow+='|OrderedNamespaceDeletion|should never be ready and never restart|issue 500 podspec updates|Sample API Server'

"$root/conformance/images/build.sh" "$work/conformance-images.tar" >"$work/images.log" 2>&1 || { cat "$work/images.log"; exit 1; }
(cd "$root" && cargo build --quiet --locked --package knarr --package knarr-conformance) || exit 1
export KNARR_BIN=${KNARR_BIN:-$root/target/debug/knarr}
export KNARR_BED_REGISTRIES=$root/conformance/images/registries.yaml
nodes=$root/tests/e2e/nodes.sh
trap '"$nodes" down' EXIT
"$nodes" up 2 && "$nodes" import "$work/conformance-images.tar" >/dev/null || exit 1
"$nodes" run timeout 900 "$root/target/debug/knarr-conformance" --kubectl "$clients/kubectl" --expected "$root/conformance/expected.txt" \
    --passing --skip "$slow" --parallel 16 --timeout 240 --flake-attempts 2 "$@" >"$work/conformance.log" 2>&1
code=$?
grep -E -A8 '^ *[0-9]+ FAIL|^flaky:|^Error' "$work/conformance.log" | cut -c1-300
sed -n '/^SIG /,$p' "$work/conformance.log"
exit $code
