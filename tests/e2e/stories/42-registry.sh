# Images from registries: a mirror that really is one, this node's own archives, and what cannot be had.

# story: registry
story_registry() {
    local server port=15111 file=/etc/knarr/registries.yaml
    crane registry serve --address "127.0.0.1:$port" >"$work/registry.log" 2>&1 &
    server=$!
    check "a registry on loopback" within 10 curl -fsS --max-time 2 "http://127.0.0.1:$port/v2/"
    check "an image in it" crane push --insecure "$work/web2.tar" "127.0.0.1:$port/team/remote:1"
    "$here/image.sh" "$work/own.tar" own.example/team/local:1 "from an archive" >/dev/null
    printf 'mirrors:\n  pull.example:\n    endpoint: ["http://127.0.0.1:%s"]\n  own.example: {}\n' "$port" >"$file"
    check "a server that reads registries.yaml" registry_restart
    check "run with pull policy Always" kubectl run remote --image=pull.example/team/remote:1 --image-pull-policy=Always --restart=Never
    check "it is pulled and runs" kubectl wait --for=condition=Ready pod/remote --timeout=60s
    check "the event says so" within 10 says 'Successfully pulled image "pull.example/team/remote:1"' kubectl describe pod remote
    check "it is the registry's image" says "version two" kubectl exec remote -- wget -qO- http://127.0.0.1/
    check "import an archive" knarr image import "$work/own.tar"
    check "pull policy Always from an archive" kubectl run archived --image=own.example/team/local:1 --image-pull-policy=Always --restart=Never
    check "it runs" kubectl wait --for=condition=Ready pod/archived --timeout=60s
    check "it is the archive's image" says "from an archive" kubectl exec archived -- wget -qO- http://127.0.0.1/
    check "an image that the mirror lacks" kubectl run lacking --image=pull.example/team/nothing:1 --restart=Never
    check "the pod says that it cannot be pulled" within 30 says "ImagePull" kubectl get pod lacking
    check "and which" within 20 says 'Failed to pull image "pull.example/team/nothing:1"' kubectl describe pod lacking
    check "pods go" kubectl delete pod remote archived lacking --grace-period=1
    printf 'mirrors:\n  pull.example: {endpoints: []}\n' >"$file"
    env KNARR_INIT=none "$root/install.sh" --stop >/dev/null 2>&1
    check "an unknown key is named" says "endpoints" env KNARR_INIT=none "$root/install.sh" --start
    rm -f "$file"
    kill "$server"; wait "$server" 2>/dev/null
    check "the server without it" registry_restart
}
registry_restart() {
    KNARR_INIT=none "$root/install.sh" --stop && KNARR_INIT=none "$root/install.sh" --start
}
