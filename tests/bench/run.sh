#!/usr/bin/env bash
# Builds Knarr (release), upstream's machinery and kine, runs the same load on each and writes docs/benchmarks.md.
# Usage: tests/bench/run.sh [--quick] [other flags of knarr-bench]   Needs root (a real node runs), Go 1.26 for the stock side.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$PWD/target/bench
mkdir -p "$work"
[ "$(id -u)" -eq 0 ] || { echo "bench: needs root: a server with a real node is measured" >&2; exit 2; }
if command -v go >/dev/null; then
    tests/bench/stock/generate.sh
    (cd tests/bench/stock && go build -mod=readonly -trimpath -o "$work/stock" .)
    [ -x "$work/kine" ] || GOBIN=$work go install github.com/k3s-io/kine@v0.16.4
else
    echo "bench: Go is not installed: the stock sides are NOT RUN" >&2
fi
[ -n "${KNARR_BENCH_BINARY:-}" ] || cargo build --release --locked --package knarr --bin knarr
cargo build --release --locked --package knarr-bench
out=(--out docs/benchmarks.md)
case " $* " in *" --quick "*) out=() ;; esac
exec target/release/knarr-bench --knarr "${KNARR_BENCH_BINARY:-target/release/knarr}" --stock "$work/stock" --kine "$work/kine" "${out[@]}" "$@"
