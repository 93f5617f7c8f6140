# story: uninstall
story_uninstall() {
    [ -n "${KEEP:-}" ] && { echo "  kept (KEEP=1)"; return; }
    check "uninstall" env KNARR_INIT=none "$root/install.sh" --uninstall
    host_state | sort >"$work/host-after"
    check "the host is as before" diff "$work/host-before" "$work/host-after"
}
