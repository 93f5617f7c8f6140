//! Upstream: `test/e2e/storage/empty_dir_wrapper.go`.

use serde_json::{Value, json};

use super::keyed::Flavour::{ConfigMap, Secret};
use crate::Result;
use crate::api::array;
use crate::context::{Context, POD_START};
use crate::images::AGNHOST;
use crate::kinds::{CONFIG_MAPS, REPLICATION_CONTROLLERS, SECRETS};
use crate::pods::{container, phase, pod};

tests! {
    "[sig-storage] EmptyDir wrapper volumes should not conflict" => no_conflict,
    "[sig-storage] EmptyDir wrapper volumes should not cause race condition when used for configmaps [Serial]" => no_race,
}

async fn no_conflict(c: Context) -> Result<()> {
    let name = c.unique("emptydir-wrapper-test");
    c.create(&SECRETS, &Secret.object(&name, &[("data-1", "value-1\n")])).await?;
    c.create(&CONFIG_MAPS, &ConfigMap.object(&name, &[("data-1", "value-1\n")])).await?;
    let mut server = container("secret-test", AGNHOST, &["test-webserver"]);
    server["volumeMounts"] = json!([
        {"name": "secret-volume", "mountPath": "/etc/secret-volume", "readOnly": true},
        {"name": "configmap-volume", "mountPath": "/etc/configmap-volume"},
    ]);
    let mut pod = pod("pod-secrets", json!([server]));
    pod["spec"]["volumes"] = json!([
        {"name": "secret-volume", "secret": {"secretName": name}},
        {"name": "configmap-volume", "configMap": {"name": name}},
    ]);
    c.start(&pod).await?;
    for dir in ["/etc/secret-volume", "/etc/configmap-volume"] {
        let seen = c.exec_ok("pod-secrets", "secret-test", &["cat", &format!("{dir}/data-1")]).await?;
        ensure_eq!(seen, "value-1", "the file in {dir}");
    }
    c.remove_pod("pod-secrets").await?;
    c.api(&SECRETS).delete(&name).await?;
    c.api(&CONFIG_MAPS).delete(&name).await.map(|_| ())
}

/// 50 ConfigMaps as 50 volumes of each of 5 pods on one node, three times.
async fn no_race(c: Context) -> Result<()> {
    let mut volumes = Vec::new();
    let mut mounts = Vec::new();
    for n in 0..50 {
        let name = format!("racey-configmap-{n}");
        c.create(&CONFIG_MAPS, &ConfigMap.object(&name, &[("data-1", "value-1")])).await?;
        let items = json!([{"key": "data-1", "path": "data-1"}]);
        volumes.push(json!({"name": name, "configMap": {"name": name, "items": items}}));
        mounts.push(json!({"name": name, "mountPath": format!("/etc/config-{n}")}));
    }
    let node = c.node().await?["metadata"]["name"].clone();
    for _ in 0..3 {
        round(&c, &node, &volumes, &mounts).await?;
    }
    Ok(())
}

async fn round(c: &Context, node: &Value, volumes: &[Value], mounts: &[Value]) -> Result<()> {
    let name = c.unique("wrapped-volume-race");
    let mut sleeper = container("test-container", AGNHOST, &[]);
    sleeper["command"] = json!(["sleep", "10000"]);
    sleeper["resources"] = json!({"requests": {"cpu": "10m"}});
    sleeper["volumeMounts"] = json!(mounts);
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]}}});
    let spec = json!({"containers": [sleeper], "volumes": volumes, "affinity": affinity, "dnsPolicy": "Default", "terminationGracePeriodSeconds": 1});
    let template = json!({"metadata": {"labels": {"name": name}}, "spec": spec});
    let rc = json!({"metadata": {"name": name}, "spec": {"replicas": 5, "selector": {"name": name}, "template": template}});
    c.create(&REPLICATION_CONTROLLERS, &rc).await?;
    let selector = format!("name={name}");
    let query = [("labelSelector", selector.as_str())];
    c.pods()
        .wait_set(&query, POD_START, "5 running pods with 50 volumes each", |pods| {
            let running = pods.iter().filter(|p| phase(p) == "Running").count();
            for p in pods.iter().filter(|p| phase(p) == "Failed") {
                anyhow::bail!("a pod failed: {}", p["status"]);
            }
            for s in pods.iter().flat_map(|p| array(p, "/status/containerStatuses")) {
                ensure_eq!(s["restartCount"], json!(0), "restarts");
            }
            Ok((running == 5).then_some(()))
        })
        .await?;
    let options = json!({"propagationPolicy": "Background"});
    c.api(&REPLICATION_CONTROLLERS).delete_with(&name, options).await?;
    c.pods().wait_set(&query, POD_START, "no pod left", |pods| Ok(pods.is_empty().then_some(()))).await
}
