#!/usr/bin/env bash
# Records the answers of the stock API server (built from the pinned Go modules) beside the scripts.
# Usage: record.sh [FILTER]        only scripts whose path contains FILTER
#        record.sh --check         records into a scratch copy and fails if anything differs from what is committed
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
command -v go >/dev/null || { echo "record.sh: Go 1.26 or newer is needed and is not installed" >&2; exit 3; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
(cd "$here/recorder" && go build -mod=readonly -trimpath -o "$scratch/recorder" .)
if [ "${1:-}" = --check ]; then
    cp -r "$here/scripts" "$scratch/scripts"
    (cd "$scratch" && ./recorder record scripts)
    diff -r "$here/scripts" "$scratch/scripts" && echo "recorded again: the same files"
else
    (cd "$here" && "$scratch/recorder" record scripts "${1:-}")
fi
