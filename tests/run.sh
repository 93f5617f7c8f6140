#!/usr/bin/env bash
# Installs what the tests need and runs every test: rules of the house, lints, unit and integration tests, and
# the end-to-end stories on real containerd. Usage: tests/run.sh [quick]   (quick: without end-to-end)
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD
export CARGO_TERM_COLOR=never KNARR_TEST_ROOT="$root"
work=${KNARR_TEST_WORK:-$root/target/test-work}
clients=${KNARR_CLIENTS:-$root/target/clients}
mkdir -p "$work"

passed=0 failed=0 skipped=0
failures=()
step() { # name, command...
    local name=$1 start=$SECONDS
    shift
    echo "=== $name"
    if "$@"; then passed=$((passed + 1)); echo "--- ok: $name ($((SECONDS - start)) s)"
    else failed=$((failed + 1)); failures+=("$name"); echo "--- FAILED: $name ($((SECONDS - start)) s)"; fi
}

needs() {
    local packages=()
    command -v containerd >/dev/null || packages+=(containerd)
    command -v runc >/dev/null || packages+=(runc)
    [ -x /bin/busybox ] || packages+=(busybox-static)
    command -v ip >/dev/null || packages+=(iproute2)
    command -v nft >/dev/null || packages+=(nftables)
    command -v curl >/dev/null || packages+=(curl)
    command -v cc >/dev/null || packages+=(gcc libc6-dev)
    # Without it the stories of service managers are counted as skipped.
    command -v debootstrap >/dev/null || [ "$(id -u)" -ne 0 ] || packages+=(debootstrap)
    [ "${#packages[@]}" -eq 0 ] && return 0
    local policy=/usr/sbin/policy-rc.d made=""
    [ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod 755 "$policy"; made=yes; }
    apt-get update -qq >"$work/apt.log" 2>&1 &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >>"$work/apt.log" 2>&1
    local code=$?
    [ -n "$made" ] && rm -f "$policy"
    [ $code -eq 0 ] || tail -n 20 "$work/apt.log"
    return $code
}

cargo_tests() {
    # As root the tests on real containerd and in network namespaces run too; without, they say that they are skipped.
    [ "$(id -u)" -eq 0 ] && export KNARR_E2E=1
    cargo test --locked --workspace --no-fail-fast -- --show-output 2>&1 | tee "$work/cargo-test.log" |
        grep -E '^(test .*FAILED|test result: F|error|thread .* panicked|warning: unused)' -A3
    local code=${PIPESTATUS[0]} quiet
    local totals
    totals=$(awk '/^test result:/ {p += $4; f += $6; i += $8} END {printf "%d %d %d", p, f, i}' "$work/cargo-test.log")
    read -r p f i <<<"$totals"
    # A test that finds that it cannot run here passes for the test harness, and says so. It counts as skipped.
    grep -E '^(NOT RUN|SKIPPED):' "$work/cargo-test.log" | sort | uniq -c
    quiet=$(grep -cE '^(NOT RUN|SKIPPED):' "$work/cargo-test.log")
    p=$((p - quiet)) i=$((i + quiet))
    echo "cargo test: $p passed, $f failed, $i ignored or skipped"
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + i))
    return "$code"
}

# Ignored in the run of all tests, because it needs a client; counted as skipped there if this one is not run.
cnitool_test() {
    CNITOOL=$clients/cnitool cargo test --locked --package knarr-plugin --test real cnitool -- --ignored --exact cnitool_drives_the_executable >"$work/cnitool.log" 2>&1 &&
        grep -q '^test result: ok. 1 passed' "$work/cnitool.log" && skipped=$((skipped - 1)) && return
    cat "$work/cnitool.log"
    return 1
}

conformance_slice() {
    local p f
    conformance/slice.sh
    local code=$?
    if read -r p f <<<"$(sed -n 's/^conformance: \([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$work/conformance.log")" && [ -n "$p" ]; then
        passed=$((passed + p)) failed=$((failed + f))
    fi
    return $code
}

step "test needs" needs
step "rules of the house (cargo xtask tidy)" cargo xtask tidy
step "format" cargo fmt --all --check
step "lints" cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
step "unit and integration tests" cargo_tests
if [ "${1:-}" != quick ]; then
    step "stock clients" tests/clients/build.sh "$clients"
    if [ "$(id -u)" -eq 0 ]; then
        step "cnitool drives the CNI executable" cnitool_test
        step "end to end" tests/e2e/run.sh
        if [ -f "$work/e2e-counts" ]; then
            read -r p f s <"$work/e2e-counts"
            passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
        fi
        step "a slice of the official behaviours" conformance_slice
    else
        echo "end to end: skipped, it needs root"
        skipped=$((skipped + 1))
    fi
fi

for name in "${failures[@]+"${failures[@]}"}"; do echo "FAILED: $name"; done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
