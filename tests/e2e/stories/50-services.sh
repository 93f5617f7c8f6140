# Service managers, each in a machine of its own (machine.sh): the real one runs there as PID 1.

# Pods and their containers: what happens to the server must not change them.
machine_pods() { machine "$1" kubectl get pods -A -o jsonpath='{range .items[*]}{.metadata.uid} {.status.podIP} {.status.containerStatuses[*].containerID} {.status.containerStatuses[*].restartCount}{"\n"}{end}' | sort; }
pods_as_before() { diff "$machines/$1/pods" <(machine_pods "$1"); }

# What uninstall must leave as it was; files are all but the service managers' own state and logs.
machine_state() {
    machine "$1" sh -c "ip -o link show | awk -F': ' '{print \"link\", \$2}'; ip route; nft list tables
        awk '{print \"mount\", \$2}' /proc/mounts | grep -v -e credentials -e /run/user
        ps -eo comm= | grep -E '^(knarr|containerd|runc|pause|supervise)'
        find /etc /usr/local /run /var/log /var/lib -xdev -not -path '/var/lib/systemd/*' -not -path '/var/log/journal/*' \
            -not -path '/run/log/*' -not -path '/run/systemd/*' -not -path '/run/openrc/*'
        find /sys/fs/cgroup -maxdepth 3 -name 'kubepods*' -o -maxdepth 3 -name '*knarr*'" | sort
}
machine_as_before() { diff "$machines/$1/before" <(machine_state "$1"); }

# The part of the story that is the same for both.
# Usage: service_story NAME INIT   and functions NAME_up, NAME_installed, NAME_restart, NAME_stop, NAME_stopped, NAME_gone
service_story() {
    local name=$1 init=$2 pid setting='a "b" $c \d'
    if ! machine_create "$name" >"$work/machine.log" 2>&1; then
        skip "$name" "no Debian root to boot: $(tail -n 1 "$work/machine.log")"
        return
    fi
    if ! machine_boot "$name" "$init" >"$work/machine.log" 2>&1; then
        skip "$name" "a machine of its own does not start here: $(tail -n 1 "$work/machine.log")"
        machine_remove "$name"
        return
    fi
    "$here/image.sh" "$machines/$name/root/release/web.tar" "$web" "version one"
    "${name}_up"
    machine_state "$name" >"$machines/$name/before"
    check "install.sh ends with a Ready node" machine "$name" env KNARR_TLS_SAN=knarr.example "KNARR_NOTE=$setting" /release/install.sh || {
        machine_remove "$name"
        return
    }
    "${name}_installed"
    check "settings reach the service as they were" test "$(machine "$name" sh -c 'tr "\0" "\n" </proc/$(pgrep -x knarr)/environ' | grep ^KNARR_NOTE)" = "KNARR_NOTE=$setting"
    check "node Ready" within 10 says " Ready " machine "$name" kubectl get nodes
    check "--status" says "node $name: Ready" machine "$name" /release/install.sh --status
    check "image import" says "$web" machine "$name" knarr image import /release/web.tar
    check "create deployment" machine "$name" kubectl create deployment web --image="$web" --replicas=2
    check "two pods run" machine "$name" kubectl rollout status deployment/web --timeout=60s
    check "exec" says "uid=0" machine "$name" kubectl exec deploy/web -- id
    machine_pods "$name" >"$machines/$name/pods"

    check "restart" "${name}_restart"
    check "pods are left alone" within 10 pods_as_before "$name"
    check "restarts and a stop at once" eval "${name}_restart && ${name}_restart && ${name}_stop"
    check "stopped: the server is gone" fails machine "$name" pgrep -x 'knarr|containerd'
    check "stopped: the containers run on" machine "$name" pgrep -x httpd
    check "--status says so" says "[knarr] not running" machine "$name" /release/install.sh --status
    check "--start" says "Ready" machine "$name" /release/install.sh --start
    check "pods are left alone again" within 10 pods_as_before "$name"
    pid=$(machine "$name" pgrep -x knarr)
    check "kill -9 the server" machine "$name" kill -9 "$pid"
    check "it is started again" within 30 machine "$name" sh -c "test \$(pgrep -x knarr) != $pid && kubectl get --raw /readyz"
    check "pods are left alone by that, too" within 10 pods_as_before "$name"
    # Something at the end of a program does not change what it does, but shows which one is installed.
    echo "a later release" >>"$machines/$name/root/release/knarr"
    check "installing a later release" says "Ready" machine "$name" /release/install.sh
    check "it runs" machine "$name" sh -c 'cmp /release/knarr /proc/$(pgrep -x knarr)/exe'
    check "pods are left alone by the upgrade" within 10 pods_as_before "$name"
    check "settings are kept" machine "$name" grep -qx 'KNARR_TLS_SAN="knarr.example"' /etc/knarr/knarr.env
    check "a power cut" machine_down "$name"
    check "the machine boots" machine_boot "$name" "$init"
    check "knarr comes up by itself" within 30 says " Ready " machine "$name" kubectl get nodes
    check "the deployment runs again" within 60 says "2/2" machine "$name" kubectl get deployment web
    check "exec after the boot" within 10 says "uid=0" machine "$name" kubectl exec deploy/web -- id
    check "uninstall" says "uninstalled" machine "$name" /release/install.sh --uninstall
    "${name}_gone"
    check "uninstalling twice is harmless" says "uninstalled" machine "$name" /release/install.sh --uninstall
    check "--start says that nothing is installed" says "is not installed: run ./install.sh" machine "$name" /release/install.sh --start
    check "the machine is as before" machine_as_before "$name"
    machine_remove "$name"
}

# story: systemd
story_systemd() { service_story systemd /lib/systemd/systemd; }
systemd_up() { check "systemd is PID 1 and up" within 30 says running machine systemd systemctl is-system-running; }
systemd_restart() { machine systemd systemctl restart knarr; }
systemd_stop() { machine systemd systemctl stop knarr; }
systemd_installed() {
    check "the unit is sound" machine systemd systemd-analyze verify knarr.service
    check "the service is active" says active machine systemd systemctl is-active knarr
    check "it starts at boot" says enabled machine systemd systemctl is-enabled knarr
    check "notified, delegated, only the server is stopped" test "$(machine systemd systemctl show knarr -p Type,Delegate,KillMode | sort | tr '\n' ' ')" = "Delegate=yes KillMode=process Type=notify "
}
systemd_gone() {
    check "the unit is gone" says "No files found" machine systemd systemctl cat knarr.service
    check "no unit has failed" test -z "$(machine systemd systemctl --failed --no-legend)"
}

# story: openrc
story_openrc() { service_story openrc /sbin/openrc-init; }
openrc_up() { check "openrc-init is PID 1 and up" within 30 says default machine openrc rc-status --runlevel; }
openrc_restart() { machine openrc rc-service knarr restart; }
openrc_stop() { machine openrc rc-service knarr stop; }
openrc_installed() {
    check "the service is started" says "started" machine openrc rc-service knarr status
    check "it starts at boot" machine openrc sh -c 'rc-update show default | grep -qw knarr'
    # Where root may not raise limits it gets what there is.
    local files
    files=$( (ulimit -n 1048576) 2>/dev/null && echo 1048576 || ulimit -Hn)
    check "$files files may be open" test "$(machine openrc sh -c 'awk "/open files/ {print \$4}" /proc/$(pgrep -x knarr)/limits')" = "$files"
}
openrc_gone() { check "the script is gone" fails machine openrc sh -c 'test -e /etc/init.d/knarr || rc-update show | grep -qw knarr'; }
