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
    registry_secured "$port" "$file"
    printf 'mirrors:\n  pull.example: {endpoints: []}\n' >"$file"
    env KNARR_INIT=none "$root/install.sh" --stop >/dev/null 2>&1
    check "an unknown key is named" says "endpoints" env KNARR_INIT=none "$root/install.sh" --start
    rm -f "$file"
    kill "$server"; wait "$server" 2>/dev/null
    check "the server without it" registry_restart
}
# The same registry behind TLS and a password: with registries.yaml, with a pull secret, and without either.
registry_secured() { # PORT FILE
    local front port=15112 ca=$work/front-ca.pem name
    rm -f "$ca"
    registry-front -listen "127.0.0.1:$port" -to "http://127.0.0.1:$1" -ca "$ca" -user shipper -password cargo >"$work/front.log" 2>&1 &
    front=$!
    check "a registry behind TLS and a password" within 10 says 401 curl -sS --cacert "$ca" -o /dev/null -w '%{http_code}' "https://127.0.0.1:$port/v2/"
    crane tag --insecure "127.0.0.1:$1/team/remote:1" secret 2>/dev/null
    install -m 600 /dev/null "$2"
    cat >"$2" <<Y
mirrors:
  sealed.example: {endpoint: ["https://127.0.0.1:$port"]}
configs:
  "127.0.0.1:$port":
    auth: {username: shipper, password: cargo}
    tls: {ca_file: $ca}
Y
    check "a server that knows authority and password" registry_restart
    check "run an image of a mirror behind TLS and a password" kubectl run sealed --image=sealed.example/team/remote:secret --restart=Never
    check "it is pulled and runs" kubectl wait --for=condition=Ready pod/sealed --timeout=60s
    check "from there" within 10 says 'Successfully pulled image "sealed.example/team/remote:secret"' kubectl describe pod sealed
    check "files with the password are root's alone" fails bash -c "grep -rl --include='*.toml' --include='*.yaml' cargo /etc/knarr /var/lib/knarr/agent | xargs -r stat -c %A | grep -v -- '^-rw-------$'"
    printf 'configs:\n  "127.0.0.1:%s": {tls: {ca_file: %s}}\n' "$port" "$ca" >"$2"
    check "a server that knows the authority alone" registry_restart
    kubectl delete pod sealed --grace-period=1 >/dev/null
    for name in open locked; do crane tag --insecure "127.0.0.1:$1/team/remote:1" "$name" 2>/dev/null; done
    check "without a password" kubectl run open --image="127.0.0.1:$port/team/remote:open" --restart=Never
    check "it cannot be pulled" within 30 says "401 Unauthorized" kubectl describe pod open
    check "a pull secret" kubectl create secret docker-registry front --docker-server="127.0.0.1:$port" --docker-username=shipper --docker-password=cargo
    check "a pod that has it" kubectl run locked --image="127.0.0.1:$port/team/remote:locked" --restart=Never --overrides '{"spec": {"imagePullSecrets": [{"name": "front"}]}}'
    check "is pulled and runs" kubectl wait --for=condition=Ready pod/locked --timeout=60s
    # (Containerd believes anybody on loopback who is not configured, so the name must be another.)
    printf 'mirrors:\n  sealed.example: {endpoint: ["https://127.0.0.1:%s"]}\nconfigs:\n  "127.0.0.1:%s": {auth: {username: shipper, password: cargo}}\n' "$port" "$port" >"$2"
    check "a server that does not know the authority" registry_restart
    crane tag --insecure "127.0.0.1:$1/team/remote:1" strange 2>/dev/null
    check "an image from there" kubectl run strange --image=sealed.example/team/remote:strange --restart=Never
    check "is not believed" within 30 says "certificate signed by unknown authority" kubectl describe pod strange
    check "pods and secret go" kubectl delete pod/open pod/locked pod/strange secret/front --grace-period=1
    kill "$front"; wait "$front" 2>/dev/null
}
registry_restart() {
    KNARR_INIT=none "$root/install.sh" --stop && KNARR_INIT=none "$root/install.sh" --start
}
