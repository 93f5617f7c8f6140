# story: restart
pod_facts() { kubectl get pods -A -o jsonpath='{range .items[*]}{.metadata.uid} {.status.podIP} {.status.containerStatuses[*].containerID} {.status.containerStatuses[*].restartCount}{"\n"}{end}' | sort; }
story_restart() {
    kubectl rollout status deployment/web --timeout=60s >/dev/null
    within 60 bash -c '! kubectl get pods -A --no-headers | grep -q Terminating' >/dev/null
    pod_facts >"$work/pods-before"
    check "kill -9 the server" kill -9 "$(cat /run/knarr.pid)"
    check "start it again" env KNARR_INIT=none "$root/install.sh" --start
    check "state is intact" says "2/2" kubectl get deployment web
    sleep 2
    pods_untouched

    # The script's own commands, where there is no service manager.
    check "--stop" says "stopped; containers keep running" env KNARR_INIT=none "$root/install.sh" --stop
    check "the server is gone" fails kubectl get --raw /readyz --request-timeout=2s
    check "its containers run on" within 5 says "version one" curl -fsS --max-time 2 "http://$(head -n 1 "$work/pods-before" | cut -d' ' -f2)/"
    check "--stop again" says "[knarr] not running" env KNARR_INIT=none "$root/install.sh" --stop
    check "--status says so" says "[knarr] not running" env KNARR_INIT=none "$root/install.sh" --status
    check "and by its exit code" test "$(KNARR_INIT=none "$root/install.sh" --status >/dev/null 2>&1; echo $?)" = 3
    check "--start" says "Ready" env KNARR_INIT=none "$root/install.sh" --start
    check "--status" says "[knarr] running, pid " env KNARR_INIT=none "$root/install.sh" --status
    check "an unknown option is refused" says "usage: ./install.sh" "$root/install.sh" --strat
    check "a broken KNARR_INIT is named" says "KNARR_INIT=runit is not one of" env KNARR_INIT=runit "$root/install.sh" --status
    pods_untouched
    # Something at the end of a program does not change what it does, but shows which one is installed.
    cp "$KNARR_BIN" "$work/knarr-later" && echo "a later release" >>"$work/knarr-later"
    check "installing a later release over it" says "Ready" env KNARR_INIT=none KNARR_BIN="$work/knarr-later" "$root/install.sh"
    check "it runs" cmp "$work/knarr-later" "/proc/$(cat /run/knarr.pid)/exe"
    pods_untouched
    rm -f "$work/knarr-later"
}
pods_untouched() {
    sleep 1
    pod_facts >"$work/pods-after"
    check "containers are untouched, addresses kept" diff "$work/pods-before" "$work/pods-after"
    check "services answer" within 10 says "version one" curl -fsS --max-time 2 "http://$(kubectl get svc web -o jsonpath='{.spec.clusterIP}')/"
}
