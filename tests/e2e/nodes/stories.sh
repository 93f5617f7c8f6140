# Stories of several nodes, on the test bed of ../nodes.sh. Needs ../lib.sh and ../nodes.sh.
# `nodes_stories [STORY...]` makes the bed, tells them in this order, and takes the bed apart.
nodes_all="joined pods services dns policies tunnel cut server_restart agent_restart delete_node uninstall"
node_image=knarr.local/test/node:1

k() { bed_kubectl "$@"; }
in_pod() { k exec "$1" -- timeout 5 "${@:2}"; }
pod_ip() { k get pod "$1" -o jsonpath='{.status.podIP}'; }
# get URL: the body, from beside the nodes; get_on NODE URL: from a node itself.
get() { bed_run curl -fsS --max-time 3 "$1"; }
get_on() { bed_exec "$1" curl -fsS --max-time 3 "$2"; }
# is TEXT COMMAND...: the output is exactly this.
is() {
    local want=$1 out
    shift
    out=$("$@" 2>&1)
    [ "$out" = "$want" ] || { printf 'expected: %s\ngot: %s\n' "$want" "$out"; return 1; }
}
# seen TIMES COMMAND...: the different outputs, sorted, in one line.
seen() {
    local i
    for i in $(seq "$1"); do "${@:2}" || echo "failed"; done | sort -u | tr '\n' ' ' | sed 's/ $//'
}

# web-N and client-N on node N. A web pod says on /cgi-bin/who its own name and the address it is asked from.
node_pods() {
    local n
    for n in 1 2; do
        cat <<Y
apiVersion: v1
kind: Pod
metadata: {name: web-$n, labels: {app: web, name: web-$n}}
spec:
  nodeSelector: {kubernetes.io/hostname: node$n}
  terminationGracePeriodSeconds: 1
  tolerations: [{operator: Exists}]
  containers:
  - name: web
    image: $node_image
    ports: [{name: http, containerPort: 80}]
    command:
    - sh
    - -c
    - |
      mkdir -p /srv/cgi-bin && cd /srv
      printf '#!/bin/sh\necho "Content-Type: text/plain"; echo; r=\${REMOTE_ADDR##*:}; echo "\$(hostname) \${r%%]}"\n' >cgi-bin/who
      chmod 755 cgi-bin/who; dd if=/dev/urandom of=big bs=64k count=80 2>/dev/null
      hostname >name
      exec httpd -f -p 80 -h /srv
    readinessProbe: {httpGet: {path: /name, port: 80}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: client-$n, labels: {app: client}}
spec:
  nodeSelector: {kubernetes.io/hostname: node$n}
  terminationGracePeriodSeconds: 1
  tolerations: [{operator: Exists}]
  containers: [{name: client, image: $node_image, command: [sleep, "100000"]}]
---
Y
    done
}

node_service() { # NAME POLICY-FIELDS
    k apply -f - <<Y
apiVersion: v1
kind: Service
metadata: {name: $1}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80}], $2}
Y
}

single_service() { # NAME: leads to web-1
    k create service clusterip "$1" --tcp=80 >/dev/null
    k set selector service "$1" name=web-1 >/dev/null
}

nodes_joined() {
    check "two nodes are Ready with their addresses" is "node1 10.99.0.1 node2 10.99.0.2 " \
        k get nodes -o jsonpath='{range .items[*]}{.metadata.name} {.status.addresses[?(@.type=="InternalIP")].address} {end}'
    check "-o wide" says "10.99.0.2" k get nodes -o wide
    check "each has a range of its own" is 2 bash -c "bed_kubectl get nodes -o jsonpath='{range .items[*]}{.spec.podCIDR}{\"\\n\"}{end}' | sort -u | wc -l"
}

nodes_pods() {
    node_pods | k apply -f - >/dev/null
    check "pods run on both nodes" k wait --for=condition=Ready pod --all --timeout=60s
    local one two web1 web2
    one=$(pod_ip client-1) two=$(pod_ip client-2) web1=$(pod_ip web-1) web2=$(pod_ip web-2)
    check "a pod of node1 is seen with its own address on node2" within 10 is "web-2 $one" in_pod client-1 wget -qO- "http://$web2/cgi-bin/who"
    check "a pod of node2 is seen with its own address on node1" within 10 is "web-1 $two" in_pod client-2 wget -qO- "http://$web1/cgi-bin/who"
    check "pods of one node too" is "web-2 $two" in_pod client-2 wget -qO- "http://$web2/cgi-bin/who"
    check "much data gets through" is 5242880 in_pod client-1 sh -c "wget -qO- http://$web2/big | wc -c"
    check "a node reaches a pod on the other" says "web-2 10." get_on 1 "http://$web2/cgi-bin/who"
    check "pods have the overlay's MTU" is "${node_mtu:-1450}" in_pod client-1 cat /sys/class/net/eth0/mtu
    check "pings fit" in_pod client-1 ping -c 1 -s 1400 -W 3 "$web2"
}

nodes_services() {
    node_service web "" >/dev/null
    node_service web-local "externalTrafficPolicy: Local" >/dev/null
    node_service web-near "internalTrafficPolicy: Local" >/dev/null
    k delete pod web-far --ignore-not-found >/dev/null
    local ip near port local_port n
    ip=$(k get service web -o jsonpath='{.spec.clusterIP}') port=$(k get service web -o jsonpath='{.spec.ports[0].nodePort}')
    near=$(k get service web-near -o jsonpath='{.spec.clusterIP}')
    local_port=$(k get service web-local -o jsonpath='{.spec.ports[0].nodePort}')
    for n in 1 2; do
        check "ClusterIP from a pod of node$n reaches both" within 15 is "web-1 web-2" seen 12 in_pod "client-$n" wget -qO- "http://$ip/name"
        check "ClusterIP from node$n itself reaches both" within 15 is "web-1 web-2" seen 12 get_on "$n" "http://$ip/name"
        check "NodePort of node$n from outside reaches both" within 15 is "web-1 web-2" seen 12 get "http://10.99.0.$n:$port/name"
        check "NodePort of both nodes from node$n" within 15 is "web-1 web-2" seen 6 bash -c "for i in 1 2; do bed_exec $n curl -fsS --max-time 3 http://10.99.0.\$i:$port/name; done"
        check "NodePort from a pod of node$n" within 15 is "web-1 web-2" seen 12 in_pod "client-$n" wget -qO- "http://10.99.0.$((3 - n)):$port/name"
        check "internalTrafficPolicy Local on node$n" within 15 is "web-$n" seen 8 in_pod "client-$n" wget -qO- "http://$near/name"
        check "externalTrafficPolicy Local on node$n keeps the client's address" within 15 is "web-$n 10.99.0.254" seen 4 get "http://10.99.0.$n:$local_port/cgi-bin/who"
        check "a pod reaches itself through its service" within 15 is "web-1 web-2" seen 12 in_pod "web-$n" wget -qO- "http://$ip/name"
    done
    k delete pod web-2 --wait >/dev/null
    check "a node without an endpoint does not answer for policy Local" within 15 fails get "http://10.99.0.2:$local_port/name"
    check "the other does" is "web-1" get "http://10.99.0.1:$local_port/name"
    check "ClusterIP from node2 goes to node1" within 15 is "web-1" seen 4 in_pod client-2 wget -qO- "http://$ip/name"
    check "nothing local, nothing answered" within 15 fails in_pod client-2 wget -qO- "http://$near/name"
    node_pods | k apply -f - >/dev/null
    k wait --for=condition=Ready pod/web-2 --timeout=60s >/dev/null
}

nodes_dns() {
    local n ip
    ip=$(k get service web -o jsonpath='{.spec.clusterIP}')
    for n in 1 2; do
        check "names resolve on node$n" within 10 says "$ip" in_pod "client-$n" nslookup web.default.svc.cluster.local
        check "short names on node$n" within 10 is "web-1 web-2" seen 12 in_pod "client-$n" wget -qO- http://web/name
        check "the API's name on node$n" within 10 says "10.43.0.1" in_pod "client-$n" nslookup kubernetes.default.svc.cluster.local
    done
}

# What pods may: policy NAME SPEC, in the default namespace.
policy() {
    k apply -f - >/dev/null <<Y
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: $1}
spec: $2
Y
}
# In a pod, without much patience: what is dropped is not answered.
brief() {
    local namespace=default
    [ "$1" != -n ] || { namespace=$2 && shift 2; }
    k -n "$namespace" exec "$1" -- timeout 2 "${@:2}"
}
tables() { bed_exec "$1" nft list tables; }

nodes_policies() {
    local one two n
    one=$(pod_ip web-1) two=$(pod_ip web-2)
    check "no table without a policy" fails says knarr-policy tables 1
    policy closed "{podSelector: {matchLabels: {app: web}}}"
    for n in 1 2; do
        check "closed to pods of node$n" within 10 fails brief "client-$n" wget -qO- "http://$one/name"
        check "and those of the other node to them" within 10 fails brief "client-$n" wget -qO- "http://$two/name"
        check "also by way of a service" fails brief "client-$n" wget -qO- http://web/name
        check "what an isolated pod of node$n opens is answered" brief "web-$n" nslookup kubernetes.default.svc.cluster.local 10.43.0.10
        check "node$n reaches its own pod" is "web-$n" get_on "$n" "http://$(pod_ip "web-$n")/name"
    done
    check "but not the other's" fails get_on 1 "http://$two/name"
    check "probes go on" is "true true" k get pods web-1 web-2 -o jsonpath='{.items[*].status.containerStatuses[*].ready}'

    policy clients "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: http}]}]}"
    for n in 1 2; do
        check "clients are let in on node$n" within 10 is "web-1 web-2" seen 12 brief "client-$n" wget -qO- http://web/name
        check "others are not" fails brief "web-$n" wget -qO- "http://$(pod_ip "web-$((3 - n))")/name"
        check "a pod reaches itself" is "web-$n" brief "web-$n" wget -qO- "http://$(pod_ip "web-$n")/name"
    done
    k create namespace friends >/dev/null
    k -n friends run guest --image "$node_image" --labels app=client --overrides '{"spec": {"nodeSelector": {"kubernetes.io/hostname": "node2"}, "terminationGracePeriodSeconds": 1}}' --command -- sleep 100000 >/dev/null
    k -n friends wait --for=condition=Ready pod/guest --timeout=60s >/dev/null
    guest() { brief -n friends guest "$@"; }
    check "a pod of another namespace is not let in" fails guest wget -qO- "http://$one/name"
    policy friends "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kind: friend}}}]}]}"
    check "nor while its namespace lacks the label" fails guest wget -qO- "http://$one/name"
    k label namespace friends kind=friend >/dev/null
    check "with the label it is" within 10 is web-1 guest wget -qO- "http://$one/name"
    k label namespace friends kind- >/dev/null
    check "and without it not any more" within 10 fails guest wget -qO- "http://$one/name"

    local port
    port=$(k get service web-local -o jsonpath='{.spec.ports[0].nodePort}')
    check "closed to the world outside" fails get "http://10.99.0.2:$port/name"
    policy outside "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{ipBlock: {cidr: 10.99.0.0/24, except: [10.99.0.1/32]}}]}]}"
    check "open to a network of it" within 10 is web-2 get "http://10.99.0.2:$port/name"
    check "but not to who is left out" fails get_on 1 "http://$two/name"

    policy egress "{podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {name: web-1}}}], ports: [{port: 80}]}]}"
    for n in 1 2; do
        check "client-$n may only go to web-1" within 10 fails brief "client-$n" wget -qO- "http://$two/name"
        check "which answers" is web-1 brief "client-$n" wget -qO- "http://$one/name"
        check "and to its own node, where names resolve" brief "client-$n" nslookup web.default.svc.cluster.local
        check "not to the world outside" fails brief "client-$n" ping -c 1 -W 1 10.99.0.254
    done

    k apply -f - >/dev/null <<Y
apiVersion: batch/v1
kind: Job
metadata: {name: early}
spec:
  completions: 12
  parallelism: 6
  template:
    metadata: {labels: {app: client, job: early}}
    spec:
      restartPolicy: Never
      nodeSelector: {kubernetes.io/hostname: node2}
      containers: [{name: early, image: $node_image, command: [sh, -c, "for i in 1 2 3; do nc -w 1 10.99.0.1 6443 </dev/null 2>/dev/null && echo reached || echo kept; done"]}]
Y
    check "a job of isolated pods ends" k wait --for=condition=Complete job/early --timeout=90s
    # (That the rules are there before a container starts is shown by pkg/policy/tests/run.rs and the kubelet's tests; here it would
    # take a slow machine to see them come late.)
    check "none of them got through, not even at first" is kept bash -c "bed_kubectl logs -l job=early --tail=-1 | sort -u"
    k delete job early >/dev/null
    check "others of that node get there" is reached brief web-2 sh -c "nc -w 1 10.99.0.1 6443 </dev/null && echo reached"

    bed_kill 2
    check "policies hold while the agent is away" fails brief web-1 wget -qO- "http://$two/name"
    bed_start 2
    check "start it again" within 60 is "client-2" k exec client-2 -- hostname
    check "and when it is back" fails brief client-2 wget -qO- "http://$two/name"

    k delete networkpolicy --all >/dev/null
    for n in 1 2; do
        check "without policies all is open on node$n" within 10 is "web-1 web-2" seen 12 brief "client-$n" wget -qO- http://web/name
        check "and no table is left" within 10 fails says knarr-policy tables "$n"
    done
    k delete namespace friends --wait=false >/dev/null
    # For the stories to come: one that lets everything through.
    policy open "{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{}], egress: [{}]}"
    check "a policy that allows everything" within 10 says knarr-policy tables 2
    check "does" is "web-1 web-2" seen 12 brief client-2 wget -qO- http://web/name
}

nodes_tunnel() {
    # Nothing may come in to the agent but what the overlay sends and what answers.
    bed_exec 2 nft 'add table inet bed; add chain inet bed in { type filter hook input priority -300; policy accept; };
        add rule inet bed in iifname eth0 ct state established,related accept;
        add rule inet bed in iifname eth0 udp dport 8472 accept; add rule inet bed in iifname eth0 drop'
    check "the kubelet's port is closed" fails bed_exec 1 curl -ksS --max-time 2 https://10.99.0.2:10250/healthz
    check "logs from node2" k logs client-2
    check "exec on node2" is "client-2" k exec client-2 -- hostname
    check "exec with stdin on node2" is "through" bash -c 'echo through | bed_kubectl exec -i client-2 -- cat'
    bed_kubectl port-forward pod/web-2 18081:80 >"$work/nodes-forward.log" 2>&1 &
    local forward=$!
    check "port-forward to node2" within 10 is "web-2" get http://127.0.0.1:18081/name
    kill "$forward"; wait "$forward" 2>/dev/null
    check "top node" within 60 says "node2" k top node
    check "top pod on node2" within 60 says "client-2" k top pod
    bed_exec 2 nft delete table inet bed
}

nodes_cut() {
    k apply -f - >/dev/null <<Y
apiVersion: apps/v1
kind: Deployment
metadata: {name: moves}
spec:
  replicas: 1
  selector: {matchLabels: {app: moves}}
  template:
    metadata: {labels: {app: moves}}
    spec:
      terminationGracePeriodSeconds: 1
      affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 100, preference: {matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [node2]}]}}]}}
      tolerations:
      - {operator: Exists, effect: NoSchedule}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 3}
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 3}
      containers: [{name: sleep, image: $node_image, command: [sleep, "100000"]}]
Y
    check "a pod that prefers node2 is there" within 30 says "node2 Running" k get pods -l app=moves -o jsonpath='{range .items[*]}{.spec.nodeName} {.status.phase}{end}'
    bed_cut 2
    check "a node that is cut off goes NotReady" within 90 is NotReady bash -c "bed_kubectl get node node2 --no-headers | awk '{print \$2}'"
    check "its pod is replaced elsewhere" within 60 says "node1 Running" k get pods -l app=moves -o jsonpath='{range .items[*]}{.spec.nodeName} {.status.phase}{"\n"}{end}'
    check "services leave its endpoints out" within 30 is "web-1" seen 6 in_pod client-1 wget -qO- http://web/name
    bed_heal 2
    check "it heals" within 60 is Ready bash -c "bed_kubectl get node node2 --no-headers | awk '{print \$2}'"
    check "the replaced pod is gone from it" within 60 is "1" bash -c "bed_kubectl get pods -l app=moves --no-headers | wc -l"
    check "its endpoints are back" within 30 is "web-1 web-2" seen 12 in_pod client-1 wget -qO- http://web/name
    check "exec on it works again" within 30 is "client-2" k exec client-2 -- hostname
    single_service fresh
    check "it hears of new services" within 45 is web-1 in_pod client-2 wget -qO- http://fresh/name
    k delete service fresh >/dev/null
    k delete deployment moves >/dev/null
    k wait --for=delete pod -l app=moves --timeout=30s >/dev/null
}

# A client that asks all the time and writes down what failed.
loop_start() { # POD URL
    k exec "$1" -- sh -c "rm -f /tmp/loop*; (while [ ! -e /tmp/loop-end ]; do timeout 2 wget -qO- $2 >/dev/null 2>&1 && echo ok || date '+FAILED %T'; sleep 0.05; done >/tmp/loop) >/dev/null 2>&1 &"
}
loop_end() { # POD: what came of it
    k exec "$1" -- sh -c 'touch /tmp/loop-end; sleep 1; echo "$(grep -c FAILED /tmp/loop) failed"; grep FAILED /tmp/loop; [ "$(grep -c ok /tmp/loop)" -gt 50 ] || echo "only $(wc -l </tmp/loop) asked"'
}

nodes_server_restart() {
    local before
    before=$(k get pods -o jsonpath='{range .items[*]}{.metadata.uid} {.status.podIP} {.status.containerStatuses[*].restartCount}{"\n"}{end}' | sort)
    # A service with one endpoint, on the server's node: nothing else could answer for it.
    single_service web-one
    check "a service with one endpoint" within 45 is web-1 in_pod client-2 wget -qO- http://web-one/name
    loop_start client-1 "http://$(pod_ip web-2)/name"
    loop_start client-2 "http://$(k get service web-one -o jsonpath='{.spec.clusterIP}')/name"
    sleep 1
    check "kill -9 of the server" bed_kill 1
    sleep 3
    check "start it again" bed_start 1
    check "both nodes are Ready" within 60 bed_ready 2
    sleep 3
    check "no packet between pods was lost" is "0 failed" loop_end client-1
    check "no packet to services was lost" is "0 failed" loop_end client-2
    k delete service web-one >/dev/null
    check "pods are as before" is "$before" bash -c "bed_kubectl get pods -o jsonpath='{range .items[*]}{.metadata.uid} {.status.podIP} {.status.containerStatuses[*].restartCount}{\"\\n\"}{end}' | sort"
    check "exec on node2 works again" within 30 is "client-2" k exec client-2 -- hostname
}

nodes_agent_restart() {
    loop_start client-2 "http://$(pod_ip web-1)/name"
    loop_start client-1 "http://$(pod_ip web-2)/name"
    sleep 1
    check "kill -9 of the agent" bed_kill 2
    sleep 2
    check "start it again" bed_start 2
    check "it takes up its pods" within 30 is "client-2" k exec client-2 -- hostname
    sleep 2
    check "no packet from its pods was lost" is "0 failed" loop_end client-2
    check "no packet to its pods was lost" is "0 failed" loop_end client-1
}

nodes_delete_node() {
    local cidr
    cidr=$(k get node node2 -o jsonpath='{.spec.podCIDR}')
    check "node2 has a password on record" within 10 says "node2.node-password" k -n kube-system get secrets
    check "node1 has a route to its pods" says "${cidr%/*}" bed_exec 1 ip route
    bed_kill 2
    check "delete the Node" k delete node node2
    check "its password is freed" within 20 fails says "node2.node-password" k -n kube-system get secrets
    check "its route is withdrawn" within 20 fails says "${cidr%/*}" bed_exec 1 ip route
    check "its forwarding entry too" within 20 fails says "10.99.0.2" bed_exec 1 bridge fdb show dev knarr.1
    # As if set up anew: the password of the old one is forgotten.
    bed_exec 2 rm -rf /etc/knarr/node
    check "it may join again" bed_start 2
    check "and is Ready" within 60 bed_ready 2
    check "with the range that it had, as nobody else has it" within 20 is "$cidr" k get node node2 -o jsonpath='{.spec.podCIDR}'
    node_pods | k apply -f - >/dev/null
    check "pods run on it" k wait --for=condition=Ready pod/web-2 --timeout=60s
    check "and are reached from the other" within 20 is "web-2 $(pod_ip client-1)" in_pod client-1 wget -qO- "http://$(pod_ip web-2)/cgi-bin/who"
}

nodes_uninstall() {
    bed_kill 2
    check "uninstall on node2" bed_exec 2 knarr uninstall --yes
    check "no link of ours is left" is "lo eth0" bash -c "bed_exec 2 ip -br link | sed 's/[@ ].*//' | xargs"
    check "no route" fails says "10.4" bed_exec 2 ip route
    check "no table" is "" bed_exec 2 nft list tables
    check "no process" is "bash ps sleep" bash -c "bed_exec 2 ps -eo comm= | grep -v '^bash$' | sort -u | xargs echo bash"
    check "no control group" fails bed_exec 2 sh -c 'ls -d /sys/fs/cgroup/kubepods /sys/fs/cgroup/*/kubepods | grep .'
}

nodes_bed() { # TEXT STORY...: makes a bed, tells the stories, takes it apart
    local story text=$1
    shift
    if bed_pid switch >/dev/null; then say "in the bed that is there"
    else check "a bed of two nodes$text" bed_up 2 || { bed_down; return 1; }; fi
    check "image import on both" bed_import "$work/node.tar"
    for story in "$@"; do
        echo "story: nodes, $story"
        "nodes_$story"
    done
    [ -n "${KEEP:-}" ] && return
    check "the bed goes" bed_down
    check "nothing of it is left" bash -c "! ls -d /sys/fs/cgroup/*/$bed_id '$bed' 2>/dev/null"
}

nodes_stories() { # [STORY...]
    export -f bed_kubectl bed_run bed_exec bed_pid bed_name bed_fail
    export bed bed_clients
    echo "story: nodes"
    "$bed_here/image.sh" "$work/node.tar" "$node_image" "node"
    # shellcheck disable=SC2048,SC2086
    nodes_bed "" ${*:-$nodes_all} || return 1
    # A bed that is kept is of the first sort.
    [ $# -gt 0 ] || [ -n "${KEEP:-}" ] || node_mtu=1500 KNARR_BED_SERVER_ARGS="--flannel-backend host-gw" nodes_bed " with host-gw" joined pods services
}
