#!/usr/bin/env bash
# Builds the two images of the aggregator test from the published modules, unchanged: upstream's sample API server and
# etcd (versions in aggregated/go.mod). Apart from build.sh because compiling them takes minutes.
# Usage: aggregated.sh [FILE.tar]   Needs Go.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$(cd "$here/../.." && pwd)/target/aggregated-images.tar}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$(dirname "$out")" "$scratch/image"
arch=$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/; s/armv7l/arm/')
manifest=""
# image NAME TAG PACKAGE PATH: the program of a package at PATH, as an image.
image() {
    local root=$scratch/$1 sum
    mkdir -p "$root$(dirname "$4")" "$root/tmp"
    chmod 1777 "$root/tmp"
    (cd "$here/aggregated" && CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o "$root$4" "$3")
    tar -C "$root" --numeric-owner --owner=0 --group=0 --sort=name --mtime=@0 -cf "$scratch/image/$1.tar" .
    sum=$(sha256sum "$scratch/image/$1.tar" | cut -d' ' -f1)
    printf '{"architecture":"%s","os":"linux","created":"2026-01-01T00:00:00Z","author":"%s","config":{"Entrypoint":["%s"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
        "$arch" "$1" "$4" "$sum" >"$scratch/image/$1.json"
    manifest+=",{\"Config\":\"$1.json\",\"RepoTags\":[\"$2\"],\"Layers\":[\"$1.tar\"]}"
}
image sample-apiserver registry.k8s.io/e2e-test-images/sample-apiserver:1.29.2 k8s.io/sample-apiserver /sample-apiserver
image etcd registry.k8s.io/etcd:3.6.6-0 go.etcd.io/etcd/server/v3 /usr/local/bin/etcd
printf '[%s]' "${manifest:1}" >"$scratch/image/manifest.json"
tar -C "$scratch/image" -cf "$out" .
echo "$out ($(du -m "$out" | cut -f1) MB)"
