#!/usr/bin/env bash
# Builds a container image (docker archive) from busybox-static, without a registry.
# Usage: image.sh FILE.tar NAME:TAG TEXT [CMD...]   TEXT is the page that its httpd serves.
set -euo pipefail
out=$1 name=$2 text=$3
shift 3
[ $# -gt 0 ] || set -- sh -c 'trap "exit 0" TERM; httpd -f -p 80 -h /www & wait' 
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
root=$scratch/root
mkdir -p "$root"/{bin,etc,tmp,www,root,proc,sys,dev,var}
chmod 1777 "$root/tmp"
cp "${BUSYBOX:-/bin/busybox}" "$root/bin/busybox"
for applet in $("$root/bin/busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
printf '%s\n' "$text" >"$root/www/index.html"
mkdir "$scratch/image"
tar -C "$root" --numeric-owner --owner=0 --group=0 --sort=name --mtime=@0 -cf "$scratch/image/layer.tar" .
digest=$(sha256sum "$scratch/image/layer.tar" | cut -d' ' -f1)
cmd=""
for word in "$@"; do
    word=${word//\\/\\\\}
    cmd+=",\"${word//\"/\\\"}\""
done
arch=$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/; s/armv7l/arm/')
printf '{"architecture":"%s","os":"linux","created":"2026-01-01T00:00:00Z","config":{"Env":["PATH=/bin"],"Cmd":[%s],"WorkingDir":"/"},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$arch" "${cmd:1}" "$digest" >"$scratch/image/config.json"
printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$name" >"$scratch/image/manifest.json"
mkdir -p "$(dirname "$out")"
tar -C "$scratch/image" -cf "$out" manifest.json config.json layer.tar
