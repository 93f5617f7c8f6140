# Other releases of kubectl: 1.27, the last that speaks SPDY only, and the one that this system has.

# story: clients
story_clients() {
    older_client kubectl-1.27 "$(command -v kubectl-1.27)" old127
    check "exec speaks SPDY" says "SPDY/3.1" kubectl-1.27 -v=8 exec deploy/web -- true
    local system
    # Without what the shell remembers, which would hide all but the first.
    system=$(hash -r; type -aP kubectl | grep -v "^$clients/" | head -n 1)
    if [ -z "$system" ]; then skip "the system's kubectl" "there is none besides the one built for these tests"; return; fi
    older_client "$system" "$system" system
}

# What everybody does with it. HOME is fresh: discovery that another release remembered would mislead.
older_client() { # NAME PROGRAM OBJECT
    local name=$1 k=$2 object=$3 pod forward port=18081
    local HOME=$work/home-$3
    rm -rf "$HOME" "$work/older.yaml" && mkdir -p "$HOME"
    check "$name: the server's version" says "v1.37." "$k" version -o yaml
    check "$name: get" says " Ready " "$k" get nodes -o wide
    # By hand: what old releases print for --dry-run has "creationTimestamp: null" in it, which they take for a change.
    cat >"$work/older.yaml" <<EOF
apiVersion: apps/v1
kind: Deployment
metadata: {name: $object, namespace: default}
spec:
  replicas: 1
  selector: {matchLabels: {app: $object}}
  template:
    metadata: {labels: {app: $object}}
    spec: {containers: [{name: web, image: "$web"}]}
EOF
    check "$name: apply" says "created" "$k" apply -f "$work/older.yaml"
    check "$name: rollout status" "$k" rollout status "deployment/$object" --timeout=60s
    check "$name: apply unchanged" says "unchanged" "$k" apply -f "$work/older.yaml"
    sed -i 's/replicas: 1/replicas: 2/' "$work/older.yaml"
    check "$name: diff" says '+  replicas: 2' "$k" diff -f "$work/older.yaml"
    check "$name: apply a change" says "configured" "$k" apply -f "$work/older.yaml"
    check "$name: apply --server-side" says "serverside-applied" "$k" apply --server-side --force-conflicts -f "$work/older.yaml"
    check "$name: an unknown field is refused" says 'unknown field "spec.replica"' bash -c "sed 's/replicas:/replica:/' '$work/older.yaml' | '$k' apply -f -"
    check "$name: describe deployment" within 20 says "2 available" "$k" describe deployment "$object"
    pod=$("$k" get pods -l "app=$object" -o jsonpath='{.items[0].metadata.name}')
    check "$name: describe pod" within 10 says "Started container" "$k" describe pod "$pod"
    check "$name: explain --recursive" says "ephemeralContainers" "$k" explain pod.spec --recursive
    check "$name: api-resources" says "deployments" "$k" api-resources
    check "$name: exec" says "uid=0" "$k" exec "$pod" -- id
    check "$name: exec with stdin" says "via stdin" bash -c "echo 'via stdin' | '$k' exec -i $pod -- cat"
    check "$name: exec gives the exit code" test "$("$k" exec "$pod" -- sh -c 'exit 7' >/dev/null 2>&1; echo $?)" = 7
    check "$name: exec with a terminal" says "/dev/pts/" bash -c "script -qec \"'$k' exec -it $pod -- tty\" /dev/null"
    head -c 1000000 /dev/urandom >"$work/copy.bin"
    check "$name: cp to a pod" "$k" cp "$work/copy.bin" "$pod:/tmp/copy.bin"
    check "$name: cp from a pod" bash -c "'$k' cp '$pod:/tmp/copy.bin' '$work/back.bin' && cmp '$work/copy.bin' '$work/back.bin'"
    "$k" port-forward "pod/$pod" $port:80 >"$work/forward.log" 2>&1 &
    forward=$!
    check "$name: port-forward" within 10 says "version one" curl -fsS --max-time 5 http://127.0.0.1:$port/
    check "$name: port-forward again" says "version one" curl -fsS --max-time 5 http://127.0.0.1:$port/
    kill "$forward"; wait "$forward" 2>/dev/null
    check "$name: attach and logs" says "tick" timeout 30 bash -c "'$k' run $object-ticker --image=$web --restart=Never -- sh -c 'while true; do echo tick; sleep 0.2; done' &&
        '$k' wait --for=condition=Ready pod/$object-ticker --timeout=20s >/dev/null && (timeout 3 '$k' attach $object-ticker; true)"
    check "$name: logs -f" says "tick" bash -c "timeout 3 '$k' logs -f $object-ticker; true"
    check "$name: delete" "$k" delete --now "pod/$object-ticker" "deployment/$object"
}
