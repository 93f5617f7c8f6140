#!/usr/bin/env bash
# Installs Knarr and starts a one-node cluster; ends when the node is Ready.
# With KNARR_URL and KNARR_TOKEN it makes an agent that joins that server instead.
# Works with systemd, with OpenRC, and with neither (then --start, --stop and --status manage a background process).
#
# Environment: KNARR_* settings of `knarr server` (or `knarr agent`). They are kept for the service in /etc/knarr/knarr.env; installing
# again changes those that are given then, and an empty one drops what was kept. Further:
#   KNARR_BIN=FILE       use this program instead of a release beside the script or a build
#   KNARR_PROFILE=NAME   cargo profile of a build from source (default: release)
#   KNARR_INIT=systemd|openrc|none   instead of finding out
#   KNARR_BIN_DIR=DIR    where the program goes (default: /usr/local/bin)
#   KNARR_WAIT=SECONDS   how long the node may take to become Ready (default: 180)
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
etc_dir=/etc/knarr

# What an installation before kept holds for whatever is not given now.
if [ -r "$etc_dir/knarr.env" ]; then
    given=$(set -o posix; export -p)
    set -o allexport
    # shellcheck disable=SC1091
    . "$etc_dir/knarr.env"
    set +o allexport
    eval "$given"
fi
bin_dir=${KNARR_BIN_DIR:-/usr/local/bin}
pid_file=/run/knarr.pid
log_file=/var/log/knarr.log
kubeconfig=${KNARR_WRITE_KUBECONFIG:-$etc_dir/knarr.yaml}
wait_seconds=${KNARR_WAIT:-180}
role=server
if [ -n "${KNARR_URL:-}" ]; then role=agent; fi

say() { printf '[knarr] %s\n' "$*"; }
die() { printf '[knarr] error: %s\n' "$*" >&2; exit 1; }

usage() {
    cat <<EOF
usage: ./install.sh [--start | --stop | --status | --uninstall | --help]
  (no option)   install what is needed, build if no release is beside the script, start, wait for Ready
  --start       start the installed server and wait for Ready
  --stop        stop the server; containers keep running
  --status      say whether the server runs and the node is Ready
  --uninstall   remove everything that the installation and the cluster made
EOF
}

init_system() {
    if [ -n "${KNARR_INIT:-}" ]; then echo "$KNARR_INIT"
    elif [ -d /run/systemd/system ]; then echo systemd
    elif command -v rc-service >/dev/null && [ -d /run/openrc ]; then echo openrc
    else echo none
    fi
}

# --- packages -------------------------------------------------------------------------------------------------
packages() {
    local missing=()
    command -v containerd >/dev/null || missing+=(containerd)
    command -v runc >/dev/null || missing+=(runc)
    [ "${#missing[@]}" -eq 0 ] && return
    say "installing ${missing[*]}"
    if command -v apt-get >/dev/null; then
        apt_install "${missing[@]}"
    elif command -v apk >/dev/null; then apk add --no-progress "${missing[@]}"
    elif command -v dnf >/dev/null; then dnf install -y "${missing[@]}"
    elif command -v zypper >/dev/null; then zypper --non-interactive install "${missing[@]}"
    elif command -v pacman >/dev/null; then pacman -S --noconfirm "${missing[@]}"
    else die "no known package manager: install ${missing[*]} by hand and run this again"
    fi
}

apt_install() {
    # The packages' own service is not wanted: knarr starts its own containerd. A policy keeps it from starting.
    local policy=/usr/sbin/policy-rc.d made=""
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod 755 "$policy"; made=yes
    fi
    local code=0
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } >/tmp/knarr-apt.log 2>&1 || code=$?
    [ -n "$made" ] && rm -f "$policy"
    [ "$code" -eq 0 ] || { tail -n 20 /tmp/knarr-apt.log >&2; die "apt-get install $* failed (log: /tmp/knarr-apt.log)"; }
    rm -f /tmp/knarr-apt.log
    # Nor at the next boot.
    case " $* " in *" containerd "*)
        if [ -d /run/systemd/system ]; then systemctl disable --quiet containerd.service 2>/dev/null || true; fi ;;
    esac
}

# --- program --------------------------------------------------------------------------------------------------
program() {
    if [ -n "${KNARR_BIN:-}" ]; then
        [ -x "$KNARR_BIN" ] || die "KNARR_BIN=$KNARR_BIN is not an executable file"
        echo "$KNARR_BIN"; return
    fi
    if [ -x "$here/knarr" ]; then echo "$here/knarr"; return; fi
    local profile=${KNARR_PROFILE:-release}
    [ -f "$here/Cargo.toml" ] || die "neither a release ($here/knarr) nor the sources are beside this script"
    command -v cargo >/dev/null || die "building needs Rust 1.95 or newer (cargo), see https://rustup.rs; or put a release beside this script"
    command -v cc >/dev/null || { command -v apt-get >/dev/null && apt_install gcc libc6-dev; } >&2
    say "building (profile $profile)" >&2
    (cd "$here" && cargo build --quiet --locked --profile "$profile" --package knarr) >&2 || die "the build failed"
    local folder=$profile
    [ "$profile" = dev ] && folder=debug
    echo "${CARGO_TARGET_DIR:-$here/target}/$folder/knarr"
}

install_program() {
    local from
    from=$(program)
    mkdir -p "$bin_dir" "$etc_dir"
    # A running program cannot be overwritten, but its name can be given to another file.
    cp "$from" "$bin_dir/.knarr.new"
    chmod 755 "$bin_dir/.knarr.new"
    mv -f "$bin_dir/.knarr.new" "$bin_dir/knarr"
    "$bin_dir/knarr" version
}

environment() {
    # Quoted so that a shell and systemd read the same.
    local name value
    (
        umask 077
        for name in $(compgen -A export KNARR_); do
            case $name in KNARR_BIN | KNARR_PROFILE | KNARR_WAIT | KNARR_CLIENTS | KNARR_E2E | KNARR_TEST_*) continue ;; esac
            value=${!name}
            [ -n "$value" ] || continue
            value=${value//\\/\\\\}
            value=${value//\"/\\\"}
            value=${value//\$/\\\$}
            value=${value//\`/\\\`}
            printf '%s="%s"\n' "$name" "$value"
        done >"$etc_dir/.knarr.env.new"
    )
    mv -f "$etc_dir/.knarr.env.new" "$etc_dir/knarr.env"
}

# --- services -------------------------------------------------------------------------------------------------
write_service() {
    case $(init_system) in
    systemd)
        cat >/etc/systemd/system/knarr.service <<EOF
[Unit]
Description=Knarr, a Kubernetes distribution
After=network-online.target
Wants=network-online.target

[Service]
Type=notify
EnvironmentFile=-$etc_dir/knarr.env
ExecStart=$bin_dir/knarr $role
KillMode=process
Delegate=yes
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
TimeoutStartSec=0
Restart=always
RestartSec=5s

[Install]
WantedBy=multi-user.target
EOF
        systemctl daemon-reload
        systemctl enable --quiet knarr.service
        ;;
    openrc)
        cat >/etc/init.d/knarr <<EOF
#!/sbin/openrc-run
description="Knarr, a Kubernetes distribution"
supervisor=supervise-daemon
command="$bin_dir/knarr"
command_args="$role"
output_log="$log_file"
error_log="$log_file"
pidfile="$pid_file"
respawn_delay=5
respawn_max=0
# The server takes up to 20 s to end in order; the default would leave it behind after 5.
retry="TERM/60/KILL/5"
rc_ulimit="-n 1048576"
depend() { after network-online; want cgroups; }
set -o allexport
[ -f $etc_dir/knarr.env ] && . $etc_dir/knarr.env
set +o allexport
EOF
        chmod 755 /etc/init.d/knarr
        rc-update add knarr default >/dev/null
        ;;
    esac
}

# The command that tells whether the nodes are Ready; an agent may ask for its own alone.
ask() { # sets `asked`
    asked=("$bin_dir/knarr" status)
    if [ "$role" = server ]; then asked+=(--kubeconfig "$kubeconfig")
    else asked+=(--kubeconfig "${KNARR_DATA_DIR:-/var/lib/knarr}/agent/kubelet.kubeconfig" --node "$(node_name)")
    fi
}

node_name() {
    if [ -n "${KNARR_NODE_NAME:-}" ]; then echo "$KNARR_NODE_NAME"; else uname -n | tr '[:upper:]' '[:lower:]'; fi
}

running_pid() {
    local pid
    pid=$(cat "$pid_file" 2>/dev/null) || return 1
    [ -n "$pid" ] && [ "$(readlink "/proc/$pid/exe" 2>/dev/null | sed 's/ (deleted)$//')" = "$(readlink -f "$bin_dir")/knarr" ] && echo "$pid"
}

must_be_installed() {
    [ -x "$bin_dir/knarr" ] || die "$bin_dir/knarr is not installed: run ./install.sh"
}

start() {
    must_be_installed
    case $(init_system) in
    systemd) systemctl restart knarr.service || not_started "systemd could not start knarr.service" ;;
    openrc) rc-service knarr restart || not_started "OpenRC could not start knarr" ;;
    *)
        if running_pid >/dev/null; then stop; fi
        say "starting in the background (log: $log_file)"
        (
            cd /
            setsid "$bin_dir/knarr" "$role" </dev/null >>"$log_file" 2>&1 &
            echo $! >"$pid_file"
        )
        ;;
    esac
    wait_ready
}

# Waits for the node; where nobody starts a program again that ended at once, its end is the end of waiting.
wait_ready() {
    local asking
    ask
    "${asked[@]}" --wait "$wait_seconds" &
    asking=$!
    while [ "$(init_system)" = none ] && kill -0 "$asking" 2>/dev/null; do
        # A program that has ended and is not waited for has no file.
        if ! readlink "/proc/$(cat "$pid_file")/exe" >/dev/null 2>&1; then
            kill "$asking" 2>/dev/null || true
            rm -f "$pid_file"
            not_started "knarr $role has ended"
        fi
        sleep 0.2
    done
    wait "$asking" || not_started "the node did not become Ready in $wait_seconds s"
}

not_started() {
    if [ "$(init_system)" = systemd ]; then journalctl -u knarr -n 20 --no-pager -o cat >&2
    elif [ -f "$log_file" ]; then tail -n 20 "$log_file" >&2
    fi
    die "$1"
}

stop() {
    must_be_installed
    case $(init_system) in
    systemd) systemctl stop knarr.service ;;
    openrc) rc-service knarr stop ;;
    *)
        local pid
        pid=$(running_pid) || { say "not running"; rm -f "$pid_file"; return 0; }
        kill "$pid"
        for _ in $(seq 300); do [ -d "/proc/$pid" ] || break; sleep 0.1; done
        if [ -d "/proc/$pid" ]; then kill -9 "$pid"; say "had to be killed"; fi
        rm -f "$pid_file"
        say "stopped; containers keep running"
        ;;
    esac
}

status() {
    must_be_installed
    local state pid
    case $(init_system) in
    systemd)
        state=$(systemctl is-active knarr.service) || { say "not running (systemd: $state)"; return 3; }
        say "running (systemd: $state)" ;;
    openrc)
        state=$(rc-service knarr status 2>&1) || { say "not running (OpenRC:${state##*:})"; return 3; }
        say "running (OpenRC:${state##*:})" ;;
    *)
        pid=$(running_pid) || { say "not running"; return 3; }
        say "running, pid $pid" ;;
    esac
    ask
    "${asked[@]}"
}

uninstall() {
    case $(init_system) in
    systemd)
        if [ -f /etc/systemd/system/knarr.service ]; then
            systemctl disable --now --quiet knarr.service
            rm -f /etc/systemd/system/knarr.service
            systemctl daemon-reload
            systemctl reset-failed knarr.service 2>/dev/null || true
        fi ;;
    openrc)
        if [ -f /etc/init.d/knarr ]; then
            rc-service --ifstarted knarr stop
            rc-update --quiet del knarr default || true
            rm -f /etc/init.d/knarr
        fi ;;
    *) if [ -x "$bin_dir/knarr" ]; then stop; fi ;;
    esac
    if [ -x "$bin_dir/knarr" ]; then
        "$bin_dir/knarr" uninstall --yes || die "something was left on the host, see above; --uninstall can be run again"
    fi
    if [ "$(init_system)" = openrc ]; then
        # OpenRC removes a service's control groups only when nothing ran on in them at its stop.
        for group in /sys/fs/cgroup/knarr /sys/fs/cgroup/*/knarr /sys/fs/cgroup/*/openrc_knarr; do
            if [ -d "$group" ]; then rmdir "$group" || say "$group could not be removed"; fi
        done
    fi
    if [ "$role" = agent ]; then
        say "its Node stays in the cluster: \`kubectl delete node $(node_name)\` frees the name"
    fi
    rm -rf "$etc_dir/node"
    rm -f "$bin_dir/knarr" "$pid_file" "$log_file" "$etc_dir/knarr.env" "$kubeconfig"
    rmdir "$etc_dir" 2>/dev/null || true # what the user put there stays
    say "uninstalled; packages (containerd, runc) were left"
}

[ "${1:-}" = --help ] && { usage; exit 0; }
[ "$(id -u)" -eq 0 ] || die "must be run as root"
case $(init_system) in
systemd | openrc | none) ;;
*) die "KNARR_INIT=$KNARR_INIT is not one of systemd, openrc, none" ;;
esac
case "${1:-}" in
"")
    if [ "$role" = agent ] && [ -z "${KNARR_TOKEN:-}${KNARR_TOKEN_FILE:-}" ]; then
        die "KNARR_URL is given without KNARR_TOKEN (or KNARR_TOKEN_FILE): see /var/lib/knarr/server/node-token on the server"
    fi
    packages
    install_program
    environment
    write_service
    start
    if [ "$role" = server ]; then say "kubeconfig: export KUBECONFIG=$kubeconfig"; fi
    ;;
--start) start ;;
--stop) stop ;;
--status) status ;;
--uninstall) uninstall ;;
*) usage >&2; exit 2 ;;
esac
