#!/usr/bin/env bash
# Builds the stand-ins of the test images as one docker archive, without a registry (see IMAGES.md).
# Usage: build.sh [FILE.tar]   Needs Go and a static busybox (Debian: busybox-static; BUSYBOX=/path).
# Then: knarr image import FILE.tar, or drop it into <data-dir>/agent/images/.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out=${1:-$root/target/conformance-images.tar}
busybox=${BUSYBOX:-/bin/busybox}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$(dirname "$out")" "$scratch/image"
(cd "$here/agnhost" && CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o "$scratch/agnhost" .)

# layer NAME: packs $scratch/NAME as a layer, owned by root.
layer() {
    tar -C "$scratch/$1" --numeric-owner --owner=0 --group=0 --sort=name --mtime=@0 -cf "$scratch/image/$1.tar" .
    sha256sum "$scratch/image/$1.tar" | cut -d' ' -f1 >"$scratch/$1.sum"
}

# The userland, under all of busybox' names; the small tools that busybox lacks are the program again.
base=$scratch/base
mkdir -p "$base"/{bin,sbin,etc,tmp,root,home,proc,sys,dev,var/tmp,run,uploads,usr/bin}
chmod 1777 "$base/tmp" "$base/var/tmp"
chmod 777 "$base/uploads"
cp "$busybox" "$base/bin/busybox"
for applet in $("$base/bin/busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$base/bin/$applet"
done
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\ndefault-user:x:1000:50000::/home:/bin/sh\n' >"$base/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\nfake-group:x:50000:default-user\n' >"$base/etc/group"
layer base

program=$scratch/program
mkdir -p "$program"/{usr/bin,bin}
cp "$scratch/agnhost" "$program/agnhost"
ln -s agnhost "$program/agnhost-2"
rm -f "$program/bin/nc"
for tool in dig getent curl nc; do ln -sf /agnhost "$program/bin/$tool"; done
"$scratch/agnhost" make-certificate "$program"
layer program

setuid=$scratch/setuid
mkdir -p "$setuid"
cp "$scratch/agnhost" "$setuid/nonewprivs"
chmod 4755 "$setuid/nonewprivs"
layer setuid

only=$scratch/only # the program alone
mkdir -p "$only"
cp "$scratch/agnhost" "$only/pause"
layer only

for page in nautilus kitten; do
    mkdir -p "$scratch/$page/etc"
    printf '{\n"image": "%s.jpg"\n}\n' "$page" >"$scratch/$page/data.json"
    printf 'NAME="Alpine Linux"\nID=alpine\nPRETTY_NAME="Alpine Linux (stand-in of knarr-conformance)"\n' >"$scratch/$page/etc/os-release"
    layer "$page"
done

manifest=""
arch=$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/; s/armv7l/arm/')
# image FILE "NAMES" CONFIG LAYER...: an image under several names; CONFIG is the inner JSON of `config`.
image() {
    local file=$1 names=$2 config=$3 diffs="" layers="" tags=""
    shift 3
    for l in "$@"; do
        diffs+=",\"sha256:$(cat "$scratch/$l.sum")\""
        layers+=",\"$l.tar\""
    done
    for n in $names; do tags+=",\"$n\""; done
    printf '{"architecture":"%s","os":"linux","created":"2026-01-01T00:00:00Z","author":"%s","config":{%s},"rootfs":{"type":"layers","diff_ids":[%s]}}' \
        "$arch" "$file" "$config" "${diffs:1}" >"$scratch/image/$file.json"
    manifest+=",{\"Config\":\"$file.json\",\"RepoTags\":[${tags:1}],\"Layers\":[${layers:1}]}"
}

e2e=registry.k8s.io/e2e-test-images
path='"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]'
run='"Entrypoint":["/agnhost"],"Cmd"'
image agnhost "$e2e/agnhost:2.66.1" "$path,$run:[\"pause\"]" base program
image agnhost-prev "$e2e/agnhost:2.55" "$path,$run:[\"pause\"]" base program
image busybox "$e2e/busybox:1.37.0-1" "$path,\"Cmd\":[\"sh\"]" base
image nginx "$e2e/nginx:1.15-4" "$path,$run:[\"test-webserver\"]" base program
image nginx-new "$e2e/nginx:1.27-0" "$path,$run:[\"test-webserver\"]" base program
image pause "registry.k8s.io/pause:3.10.1" "\"Entrypoint\":[\"/pause\"],\"User\":\"65535:65535\"" only
image nautilus "$e2e/nautilus:1.8" "$path,$run:[\"test-webserver\"]" base program nautilus
image kitten "$e2e/kitten:1.8" "$path,$run:[\"test-webserver\"]" base program kitten
image nonewprivs "$e2e/nonewprivs:1.4" "$path,\"Entrypoint\":[\"/nonewprivs\"],\"User\":\"1000\"" base setuid
image glibc-dns-testing "$e2e/glibc-dns-testing:2.0.0" "$path,\"Cmd\":[\"sh\"]" base program
printf '[%s]' "${manifest:1}" >"$scratch/image/manifest.json"
tar -C "$scratch/image" -cf "$out" .
echo "$out ($(du -m "$out" | cut -f1) MB): $(grep -o '"RepoTags"' "$scratch/image/manifest.json" | wc -l) images"
