#!/usr/bin/env bash
# Builds the stock clients that the tests drive: kubectl 1.37 and 1.27, helm 3, helm 4, cnitool, crane (a registry and its client),
# and our own registry-front (TLS and a password in front of a registry).
# Usage: build.sh DIR     puts kubectl, kubectl-1.27, helm3, helm4, cnitool, crane, registry-front into DIR; does nothing for those that are there.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: build.sh DIR}
mkdir -p "$out"
out=$(cd "$out" && pwd)
command -v go >/dev/null || { echo "build.sh: Go 1.26 or newer is needed for the stock clients and is not installed" >&2; exit 3; }
# kubectl has no main package of its own in the module; its version is set at link time, as upstream does.
for pair in "kubectl v1.37.0" "kubectl-1.27 v1.27.16"; do
    read -r name version <<<"$pair"
    [ -x "$out/$name" ] && continue
    minor=${version#v1.}
    set_version="-X k8s.io/component-base/version.gitVersion=$version -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=${minor%%.*}"
    (cd "$here/$name" && CGO_ENABLED=0 go build -mod=readonly -trimpath -ldflags "-s -w $set_version" -o "$out/$name" .)
done
for triple in "helm3 helm helm.sh/helm/v3/cmd/helm@v3.22.0" "helm4 helm helm.sh/helm/v4/cmd/helm@v4.3.0" \
    "cnitool cnitool github.com/containernetworking/cni/cnitool@v1.3.0" \
    "crane crane github.com/google/go-containerregistry/cmd/crane@v0.20.6"; do
    read -r name program module <<<"$triple"
    [ -x "$out/$name" ] && continue
    scratch=$(mktemp -d "$out/.$name.XXXXXX")
    GOBIN="$scratch" CGO_ENABLED=0 go install -trimpath -ldflags '-s -w' "$module"
    mv "$scratch/$program" "$out/$name"
    rmdir "$scratch"
done
[ -x "$out/registry-front" ] || (cd "$here/registry-front" && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$out/registry-front" .)
