# story: workload
story_workload() {
    check "create deployment" kubectl create deployment web --image=$web --replicas=3
    check "rollout status" kubectl rollout status deployment/web --timeout=60s || { broken="no pod runs"; return; }
    check "three pods run" test "$(kubectl get pods -l app=web -o wide --no-headers | grep -c ' Running ')" = 3
    check "logs" kubectl logs deploy/web
    check "exec" says "uid=0" kubectl exec deploy/web -- id
    check "exec with stdin" says "via stdin" bash -c 'echo "via stdin" | kubectl exec -i deploy/web -- cat'
    check "exec gives the exit code" test "$(kubectl exec deploy/web -- sh -c 'exit 7' >/dev/null 2>&1; echo $?)" = 7
    check "exec with a terminal" says "/dev/pts/" bash -c "script -qec 'kubectl exec -it deploy/web -- tty' /dev/null"
    local pod
    pod=$(kubectl get pods -l app=web -o name | head -1); pod=${pod#pod/}
    echo "copied text" >"$work/copy.txt"
    check "cp to a pod" kubectl cp "$work/copy.txt" "$pod:/tmp/copy.txt"
    check "cp from a pod" bash -c "kubectl cp '$pod:/tmp/copy.txt' '$work/back.txt' && cmp '$work/copy.txt' '$work/back.txt'"
    kubectl port-forward deploy/web 18080:80 >"$work/forward.log" 2>&1 &
    local forward=$!
    check "port-forward" within 10 says "version one" curl -fsS http://127.0.0.1:18080/
    kill "$forward"; wait "$forward" 2>/dev/null
    check "attach" says "said 42" timeout 20 bash -c "kubectl run ticker --image=$web --restart=Never -- sh -c 'while true; do echo said \$((6 * 7)); sleep 1; done' && kubectl wait --for=condition=Ready pod/ticker --timeout=30s && (timeout 4 kubectl attach ticker || true)"
    check "delete pod" kubectl delete pod ticker --grace-period=1
}

# story: service
story_service() {
    check "expose" kubectl expose deployment web --port=80
    local ip
    ip=$(kubectl get service web -o jsonpath='{.spec.clusterIP}')
    check "ClusterIP from the host" within 10 says "version one" curl -fsS --max-time 2 "http://$ip/"
    check "ClusterIP from a pod" within 10 says "version one" kubectl exec deploy/web -- timeout 2 wget -qO- "http://$ip/"
    check "service name from a pod" within 10 says "version one" kubectl exec deploy/web -- timeout 2 wget -qO- http://web.default.svc.cluster.local/
    check "short name from a pod" within 10 says "version one" kubectl exec deploy/web -- timeout 2 wget -qO- http://web/
    check "nslookup" within 10 says "$ip" kubectl exec deploy/web -- nslookup web.default.svc.cluster.local
    check "NodePort" bash -c "kubectl expose deployment web --port=80 --type=NodePort --name=web-node"
    local port node
    port=$(kubectl get service web-node -o jsonpath='{.spec.ports[0].nodePort}')
    node=$(kubectl get nodes -o jsonpath='{.items[0].status.addresses[?(@.type=="InternalIP")].address}')
    check "NodePort answers" within 10 says "version one" curl -fsS --max-time 2 "http://$node:$port/"
    check "endpoint slices" says "web" kubectl get endpointslices
}

# story: change
story_change() {
    check "scale" kubectl scale deployment web --replicas=5
    check "scaled" kubectl rollout status deployment/web --timeout=60s
    check "set image" kubectl set image deployment/web web=$web2
    check "rolled out" kubectl rollout status deployment/web --timeout=90s
    check "new version answers" within 15 says "version two" curl -fsS --max-time 2 "http://$(kubectl get svc web -o jsonpath='{.spec.clusterIP}')/"
    check "rollout history" says "2" kubectl rollout history deployment/web
    check "rollout undo" kubectl rollout undo deployment/web
    check "rolled back" kubectl rollout status deployment/web --timeout=90s
    # Pods of the revision before may still be going.
    check "only the new pods are left" within 60 bash -c 'test "$(kubectl get pods -l app=web --no-headers | wc -l)" = 5'
    local pod
    pod=$(kubectl get pods -l app=web -o name | head -1)
    check "delete a pod" kubectl delete "$pod"
    check "it is replaced" within 20 bash -c 'test "$(kubectl get pods -l app=web --no-headers | grep -c " Running ")" = 5'
    check "edit" env KUBE_EDITOR='sed -i s/replicas:\ 5/replicas:\ 2/' kubectl edit deployment web
    check "edited" within 20 says "2/2" kubectl get deployment web
}

# story: objects
story_objects() {
    kubectl create configmap settings --from-literal=a=1 --dry-run=client -o yaml >"$work/cm.yaml"
    check "apply" says "created" kubectl apply -f "$work/cm.yaml"
    sed -i 's/a: "1"/a: "2"/' "$work/cm.yaml"
    check "diff" says '+  a: "2"' kubectl diff -f "$work/cm.yaml"
    check "apply again" says "configured" kubectl apply -f "$work/cm.yaml"
    check "apply unchanged" says "unchanged" kubectl apply -f "$work/cm.yaml"
    check "server-side apply" says "serverside-applied" kubectl apply --server-side --force-conflicts -f "$work/cm.yaml"
    sed 's/a: "2"/a: "3"/' "$work/cm.yaml" >"$work/cm3.yaml"
    check "server-side apply conflicts are refused" says "conflict" kubectl apply --server-side --field-manager=other -f "$work/cm3.yaml"
    check "label" kubectl label configmap settings tier=test
    check "annotate" kubectl annotate configmap settings note=hi
    check "describe" says "tier=test" kubectl describe configmap settings
    check "describe pod" within 10 says "Started container" kubectl describe "$(kubectl get pods -l app=web -o name | head -1)"
    check "events" says "Scheduled" kubectl events
    check "explain --recursive" says "ephemeralContainers" kubectl explain pod.spec --recursive
    check "api-resources" says "deployments" kubectl api-resources
    check "secret" kubectl create secret generic s --from-literal=k=v
    check "serviceaccount" kubectl create serviceaccount robot
    check "token" says "ey" kubectl create token robot
    check "quota" kubectl create quota small --hard=pods=100,configmaps=50
    check "quota is counted" within 10 says "configmaps" kubectl describe quota small
    check "job" kubectl create job once --image=$web -- sh -c 'echo done'
    check "job completes" kubectl wait --for=condition=complete job/once --timeout=60s
    check "cronjob" kubectl create cronjob nightly --image=$web --schedule='0 3 * * *' -- sh -c 'echo nightly'
    check "cronjob by hand" kubectl create job byhand --from=cronjob/nightly
    check "its job completes" kubectl wait --for=condition=complete job/byhand --timeout=60s
    check "unknown field is refused" says 'unknown field "spec.replica"' bash -c "kubectl create deployment x --image=$web --dry-run=client -o yaml | sed 's/replicas: 1/replica: 1/' | kubectl apply -f -"
    check "top node" within 60 kubectl top node
    check "top pod" within 60 kubectl top pod
    check "debug" says "in debug" bash -c "kubectl debug \$(kubectl get pod -l app=web -o name | head -1) --image=$web -q --attach=true -- sh -c 'sleep 2; echo in debug'"
}

# story: refusals
story_refusals() {
    local scratch=$work/refusals
    rm -rf "$scratch" && mkdir -p "$scratch"
    echo "nod-name: x" >"$scratch/config.yaml"
    check "a broken config key is named" says 'config.yaml: unknown key "nod-name"; did you mean "node-name"?' knarr server --config "$scratch/config.yaml"
    check "an occupied port is named" says 'listen on 0.0.0.0:6443' knarr server --data-dir "$scratch/a"
    check "a missing containerd is named" says '/no/such/containerd: program not found' timeout 60 knarr server --data-dir "$scratch/b" --https-listen-port 16443 --write-kubeconfig "$scratch/kc" --containerd /no/such/containerd
    mkdir -p "$scratch/c/server/db" && head -c 65536 /dev/urandom >"$scratch/c/server/db/state.db"
    check "a corrupt store is named" says "state.db" timeout 60 knarr server --data-dir "$scratch/c" --https-listen-port 16443 --write-kubeconfig "$scratch/kc"
    check "a second server on the data directory is refused" says "a knarr server is running on this data directory" knarr server --https-listen-port 16443
    check "an archive that is none is named" says "$scratch/config.yaml" knarr image import "$scratch/config.yaml"
    printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: [1]\n' >"$scratch/bad.yaml"
    check "a malformed manifest is refused" says "ConfigMap" kubectl create -f "$scratch/bad.yaml" --validate=false
    { printf '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"big"},"data":{"a":"'; head -c 4194304 /dev/zero | tr '\0' x; printf '"}}'; } >"$scratch/big.json"
    check "an object of 4 MiB is refused" says "limit is 3145728" kubectl create -f "$scratch/big.json" --validate=false
    check "the server is unharmed" says "readyz check passed" kubectl get --raw '/readyz?verbose'
}

# story: namespace
story_namespace() {
    check "create namespace" kubectl create namespace x
    check "fill it" kubectl -n x create deployment w --image=$web --replicas=2
    check "it runs" kubectl -n x rollout status deployment/w --timeout=60s
    check "delete namespace" kubectl delete namespace x --timeout=120s
    check "nothing is left" says "No resources found" kubectl -n x get all
}

# story: drain
story_drain() {
    local node
    node=$(kubectl get nodes -o jsonpath='{.items[0].metadata.name}')
    check "drain" kubectl drain "$node" --force --ignore-daemonsets --delete-emptydir-data --timeout=120s
    check "cordoned" says "SchedulingDisabled" kubectl get nodes
    check "uncordon" kubectl uncordon "$node"
    check "pods come back" kubectl rollout status deployment/web --timeout=60s
}
