#!/usr/bin/env bash
# Tells the stories of several nodes alone. Usage: run.sh [STORY...]   Environment: as ../nodes.sh; KEEP=1 keeps the bed.
set -uo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
root=$(cd "$here/../.." && pwd)
work=${KNARR_TEST_WORK:-$root/target/test-work}
mkdir -p "$work"
. "$here/lib.sh"
. "$here/nodes.sh"
. "$here/nodes/stories.sh"
nodes_stories "$@"
echo "nodes: $passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
