# story: restart
pod_facts() { kubectl get pods -A -o jsonpath='{range .items[*]}{.metadata.uid} {.status.podIP} {.status.containerStatuses[*].containerID} {.status.containerStatuses[*].restartCount}{"\n"}{end}' | sort; }
story_restart() {
    kubectl rollout status deployment/web --timeout=60s >/dev/null
    within 60 bash -c '! kubectl get pods -A --no-headers | grep -q Terminating' >/dev/null
    pod_facts >"$work/pods-before"
    check "kill -9 the server" kill -9 "$(cat /run/knarr.pid)"
    check "start it again" env KNARR_INIT=none "$root/install.sh" --start
    check "state is intact" says "2/2" kubectl get deployment web
    sleep 3
    pod_facts >"$work/pods-after"
    check "containers are untouched, addresses kept" diff "$work/pods-before" "$work/pods-after"
    check "services answer" within 10 says "version one" curl -fsS --max-time 2 "http://$(kubectl get svc web -o jsonpath='{.spec.clusterIP}')/"
}
