#!/usr/bin/env bash
# Builds the stock clients that the tests drive: kubectl 1.37, helm 3, helm 4.
# Usage: build.sh DIR     puts kubectl, helm3, helm4 into DIR; does nothing for those that are there.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: build.sh DIR}
mkdir -p "$out"
out=$(cd "$out" && pwd)
command -v go >/dev/null || { echo "build.sh: Go 1.26 or newer is needed for the stock clients and is not installed" >&2; exit 3; }
helm3=v3.22.0
helm4=v4.3.0
if [ ! -x "$out/kubectl" ]; then
    version=v1.37.0
    set_version="-X k8s.io/component-base/version.gitVersion=$version -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37"
    (cd "$here/kubectl" && CGO_ENABLED=0 go build -mod=readonly -trimpath -ldflags "-s -w $set_version" -o "$out/kubectl" .)
fi
for pair in "helm3 helm.sh/helm/v3/cmd/helm@$helm3" "helm4 helm.sh/helm/v4/cmd/helm@$helm4"; do
    read -r name module <<<"$pair"
    [ -x "$out/$name" ] && continue
    scratch=$(mktemp -d "$out/.$name.XXXXXX")
    GOBIN="$scratch" CGO_ENABLED=0 go install -trimpath -ldflags '-s -w' "$module"
    mv "$scratch/helm" "$out/$name"
    rmdir "$scratch"
done
