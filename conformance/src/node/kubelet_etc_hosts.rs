//! Upstream: `test/e2e/common/node/kubelet_etc_hosts.go`.

use serde_json::{Value, json};

use crate::Result;
use crate::context::Context;
use crate::images::AGNHOST;
use crate::pods::{command, pod};

tests! {
    "[sig-node] KubeletManagedEtcHosts should test kubelet managed /etc/hosts file" => managed,
}

const HEADER: &str = "# Kubernetes-managed hosts file.";

fn sleeper(name: &str, own_hosts: bool) -> Value {
    let mut main = command(name, AGNHOST, &["sleep", "900"]);
    let mut mounts = vec![json!({"name": "host-etc-hosts", "mountPath": "/etc/hosts-original"})];
    if own_hosts {
        mounts.push(json!({"name": "host-etc-hosts", "mountPath": "/etc/hosts"}));
    }
    main["volumeMounts"] = json!(mounts);
    main
}

async fn managed(c: Context) -> Result<()> {
    let volumes = json!([{"name": "host-etc-hosts", "hostPath": {"path": "/etc/hosts", "type": "File"}}]);
    let containers =
        json!([sleeper("busybox-1", false), sleeper("busybox-2", false), sleeper("busybox-3", true)]);
    let mut ordinary = pod("test-pod", containers);
    ordinary["spec"]["volumes"] = volumes.clone();
    c.start(&ordinary).await?;
    let mut on_host =
        pod("test-host-network-pod", json!([sleeper("busybox-1", false), sleeper("busybox-2", false)]));
    on_host["spec"]["volumes"] = volumes;
    on_host["spec"]["hostNetwork"] = json!(true);
    c.start(&on_host).await?;
    let cases = [
        ("test-pod", "busybox-1", true),
        ("test-pod", "busybox-2", true),
        ("test-pod", "busybox-3", false),
        ("test-host-network-pod", "busybox-1", false),
        ("test-host-network-pod", "busybox-2", false),
    ];
    for (pod, container, managed) in cases {
        let hosts = c.exec_ok(pod, container, &["cat", "/etc/hosts"]).await?;
        let original = c.exec_ok(pod, container, &["cat", "/etc/hosts-original"]).await?;
        ensure_eq!(
            hosts.contains(HEADER),
            managed,
            "{pod}/{container}: whether the kubelet manages {hosts:?}"
        );
        anyhow::ensure!(!original.contains(HEADER), "the node's own file is managed: {original:?}");
        if container == "busybox-3" {
            ensure_eq!(hosts, original, "{pod}/{container}: the mounted file");
        }
    }
    Ok(())
}
