# What goes wrong around a server ends in a clear answer and loses nothing.

# story: disk
# A server of its own on a file system of its own that is filled up.
story_disk() {
    local dir=$work/full server n=0 said=""
    local -x KUBECONFIG=$work/full.yaml
    rm -f "$KUBECONFIG"
    mkdir -p "$dir"
    if ! mount -t tmpfs -o size=24m tmpfs "$dir"; then skip disk "no file system may be mounted"; return; fi
    full_server_start
    check "a server on 24 MiB" within 30 says ok kubectl get --raw /readyz
    head -c 200000 /dev/zero | tr '\0' x >"$work/payload"
    check "it stores" kubectl create configmap before --from-file="$work/payload"
    dd if=/dev/zero of="$dir/filler" bs=64k 2>/dev/null
    rm -f "$work/acknowledged"
    while [ "$n" -lt 200 ]; do
        n=$((n + 1))
        said=$(kubectl create configmap "full-$n" --from-file="$work/payload" 2>&1) || break
        echo "configmap/full-$n" >>"$work/acknowledged"
    done
    check "a write on the full disk is refused" test "$n" -lt 200
    check "in one line that says why" bash -c '[ "$(wc -l <<<"$1")" = 1 ] && grep -q "disk is full" <<<"$1"' - "$said"
    check "the next one, too" says "disk is full" kubectl create configmap again --from-file="$work/payload"
    check "reads go on" says "before" kubectl get configmap before
    touch "$work/acknowledged"
    check "nothing acknowledged is missing, nothing refused is there" full_as_acknowledged
    check "the log names it" grep -q "disk is full" "$work/full.log"
    rm "$dir/filler"
    check "with room again it stores" within 20 kubectl create configmap after --from-literal=a=b
    check "all is there still" full_as_acknowledged
    kill "$server"; wait "$server" 2>/dev/null
    full_server_start
    check "and after a restart" within 30 says ok kubectl get --raw /readyz
    check "all is there after a restart" full_as_acknowledged
    check "the later one, too" kubectl get configmap before after
    # The next one fills it up with its own data, and the server is killed on the full disk.
    dd if=/dev/zero of="$dir/filler" bs=64k 2>/dev/null
    check "kill -9 on the full disk" kill -9 "$server"
    wait "$server" 2>/dev/null
    rm "$dir/filler"
    full_server_start
    check "it starts again" within 30 says ok kubectl get --raw /readyz
    check "all is there after the kill" full_as_acknowledged
    kill "$server"; wait "$server" 2>/dev/null
    umount "$dir"
}
full_server_start() {
    knarr server --data-dir "$dir" --https-listen-port 16443 --bind-address 127.0.0.1 --write-kubeconfig "$KUBECONFIG" --disable kubelet,controllers,metrics >>"$work/full.log" 2>&1 &
    server=$!
}
full_as_acknowledged() { diff <(sort "$work/acknowledged") <(kubectl get configmaps -o name | grep /full- | sort); }

# curl with the admin's certificate: api PATH [OPTION...]; api_keys first.
api_keys() {
    api_server=$(kubectl config view --raw -o jsonpath='{.clusters[0].cluster.server}')
    (
        umask 077
        kubectl config view --raw -o jsonpath='{.clusters[0].cluster.certificate-authority-data}' | base64 -d >"$work/api-ca"
        kubectl config view --raw -o jsonpath='{.users[0].user.client-certificate-data}' | base64 -d >"$work/api-cert"
        kubectl config view --raw -o jsonpath='{.users[0].user.client-key-data}' | base64 -d >"$work/api-key"
    )
}
api() { curl -sS --cacert "$work/api-ca" --cert "$work/api-cert" --key "$work/api-key" "$api_server$1" "${@:2}"; }

# story: protobuf
# Bodies that end too early, as from a client that dies.
story_protobuf() {
    api_keys
    local type="application/vnd.kubernetes.protobuf" path=/api/v1/namespaces/default/configmaps size cut code
    printf '{"metadata":{"name":"whole"},"data":{"key":"%s"}}' "$(head -c 500 /dev/zero | tr '\0' v)" >"$work/whole.json"
    api "$path?dryRun=All" -H "Content-Type: application/json" -H "Accept: $type" --data-binary "@$work/whole.json" -o "$work/whole.pb"
    check "the server speaks protobuf" test "$(head -c 3 "$work/whole.pb")" = k8s
    size=$(stat -c %s "$work/whole.pb")
    for cut in 0 3 4 20 $((size / 4)) $((size / 2)) $((size * 3 / 4)) $((size - 20)); do
        head -c "$cut" "$work/whole.pb" >"$work/cut.pb"
        code=$(api "$path" -H "Content-Type: $type" --data-binary "@$work/cut.pb" -o "$work/cut.json" -w '%{http_code}')
        check "cut after $cut of $size bytes: 400 with a Status that says so" bash -c "[ '$code' = 400 ] && grep -q '\"reason\": *\"BadRequest\"' '$work/cut.json' && grep -qE '\"message\": *\"[^\"]{10,}' '$work/cut.json' || { echo 'HTTP $code'; cat '$work/cut.json'; exit 1; }"
    done
    # Fewer bytes than announced: the connection ends, nothing is stored.
    check "fewer bytes than announced" fails api "$path" -H "Content-Type: $type" -H "Content-Length: $((size + 100))" --http1.1 --max-time 3 --data-binary "@$work/whole.pb" -o /dev/null -f
    check "none was stored" says "NotFound" kubectl get configmap whole
    code=$(api "$path" -H "Content-Type: $type" --data-binary "@$work/whole.pb" -o "$work/cut.json" -w '%{http_code}')
    check "the whole one is stored" test "$code" = 201
    check "and is whole" says vvvvvvvvvv kubectl get configmap whole -o yaml
    kubectl delete configmap whole >/dev/null
    check "the server is unharmed" says "readyz check passed" kubectl get --raw '/readyz?verbose'
}

# story: watcher
# A client that stops reading its watch, while 150 MB of changes go by.
story_watcher() {
    api_keys
    local path=/api/v1/namespaces/default/configmaps server stopped reader before after version i changes=500
    server=$(cat /run/knarr.pid)
    kubectl create configmap big --from-literal=a=b >/dev/null
    for i in 0 1; do
        { printf '{"data":{"a":"'; head -c 300000 /dev/zero | tr '\0' "$i"; printf '"}}'; } >"$work/patch-$i"
    done
    version=$(kubectl get configmap big -o jsonpath='{.metadata.resourceVersion}')
    local watch="$path?watch=1&fieldSelector=metadata.name=big&resourceVersion=$version"
    (exec curl -sSN --cacert "$work/api-ca" --cert "$work/api-cert" --key "$work/api-key" "$api_server$watch" >"$work/stopped.events") &
    stopped=$!
    (exec curl -sSN --cacert "$work/api-ca" --cert "$work/api-cert" --key "$work/api-key" "$api_server$watch" >"$work/reader.events") &
    reader=$!
    kubectl label configmap big watched=yes >/dev/null
    check "two watches are open" within 10 eval 'test_events "$work/stopped.events" 1 && test_events "$work/reader.events" 1'
    kill -STOP $stopped
    before=$(awk '/^VmRSS/ {print $2}' "/proc/$server/status")
    for ((i = 0; i < changes; i++)); do
        [ "$i" = 0 ] || echo next
        printf 'url = "%s%s/big"\nrequest = PATCH\nheader = "Content-Type: application/merge-patch+json"\ndata-binary = "@%s"\noutput = /dev/null\nfail\n' \
            "$api_server" "$path" "$work/patch-$((i % 2))"
        printf 'cacert = "%s"\ncert = "%s"\nkey = "%s"\n' "$work/api-ca" "$work/api-cert" "$work/api-key"
    done >"$work/changes"
    check "$changes changes of 300 kB" timeout 120 curl -sS -K "$work/changes"
    after=$(awk '/^VmRSS/ {print $2}' "/proc/$server/status")
    check "the server answers at once" timeout 2 kubectl get nodes
    check "another watch has them all" within 20 test_events "$work/reader.events" $((changes + 1))
    check "memory is bounded ($before kB before, $after kB after)" test "$((after - before))" -lt 100000
    kill -CONT $stopped
    # It gets everything, or is told that it is too late: never a gap in silence.
    check "the stopped one gets all or is told" within 20 stopped_is_served
    check "what it got has no gap" stopped_without_gap
    kill $reader $stopped 2>/dev/null
    wait $reader 2>/dev/null
    rm -f "$work"/*.events "$work"/patch-? "$work/changes"
    kubectl delete configmap big >/dev/null
}
test_events() { # FILE NUMBER
    local n
    n=$(grep -o '"type":"MODIFIED"' "$1" | wc -l)
    [ "$n" = "$2" ] || { echo "$n events of $2"; return 1; }
}
stopped_is_served() {
    test_events "$work/stopped.events" $((changes + 1)) && return
    grep -qE '"code": ?410' "$work/stopped.events" && return
    # An ended connection tells, too.
    ! kill -0 $stopped 2>/dev/null
}
stopped_without_gap() { # what it has is the beginning of what the other has
    versions() { grep -o '"resourceVersion":"[0-9]*"' "$1" | uniq; }
    local got
    versions "$work/stopped.events" >"$work/stopped.versions"
    got=$(wc -l <"$work/stopped.versions")
    # A document that was cut at the end of the connection may show its version or not.
    diff "$work/stopped.versions" <(versions "$work/reader.events" | head -n "$got")
}
