# story: install
story_install() {
    check "install.sh ends with a Ready node" env KNARR_INIT=none "$root/install.sh" || {
        tail -n 40 /var/log/knarr.log
        echo "$passed $((failed)) $skipped" >"$work/e2e-counts"
        exit 1
    }
    check "the node is Ready and names its version" says "v1.37." kubectl get nodes -o wide
    check "node state" says " Ready " kubectl get nodes
    check "node role" within 10 says " control-plane " kubectl get nodes
    check "kubeconfig is for root only" test "$(stat -c %a /etc/knarr/knarr.yaml)" = 600
    check "server is ready" says "readyz check passed" kubectl get --raw '/readyz?verbose'
    check "--status" says "Ready" env KNARR_INIT=none "$root/install.sh" --status
    "$here/image.sh" "$work/web1.tar" "$web" "version one"
    "$here/image.sh" "$work/web2.tar" "$web2" "version two"
    check "image import" says "$web" knarr image import "$work/web1.tar" "$work/web2.tar"
}
