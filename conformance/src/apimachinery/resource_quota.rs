//! Upstream's resource_quota.go: counts of objects, the quota's own life.

use serde_json::{Value, json};

use super::quota::{LIMIT, create, exceeds, hard, present, used};
use crate::Result;
use crate::api::{Kind, Patch, text};
use crate::context::{Context, random};
use crate::images::PAUSE;
use crate::kinds::{CONFIG_MAPS, REPLICA_SETS, REPLICATION_CONTROLLERS, RESOURCE_QUOTAS, SECRETS, SERVICES};

tests! {
    "[sig-api-machinery] ResourceQuota should create a ResourceQuota and ensure its status is promptly calculated." => prompt,
    "[sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a service." => services,
    "[sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a secret." => secrets,
    "[sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a configMap." => config_maps,
    "[sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a replication controller." => controllers,
    "[sig-api-machinery] ResourceQuota should create a ResourceQuota and capture the life of a replica set." => replica_sets,
    "[sig-api-machinery] ResourceQuota should be able to update and delete ResourceQuota." => update_and_delete,
    "[sig-api-machinery] ResourceQuota should manage the lifecycle of a ResourceQuota" => lifecycle,
    "[sig-api-machinery] ResourceQuota should apply changes to a resourcequota status" => status,
}

const NAME: &str = "test-quota";

async fn prompt(cx: Context) -> Result<()> {
    ensure_eq!(present(&cx, &RESOURCE_QUOTAS).await?, 0, "quotas before the test");
    create(&cx, NAME, json!({"hard": hard()})).await?;
    used(&cx, NAME, json!({"resourcequotas": "1", "pods": "0", "services": "0"})).await.map(|_| ())
}

async fn services(cx: Context) -> Result<()> {
    create(&cx, NAME, json!({"hard": hard()})).await?;
    used(&cx, NAME, json!({"resourcequotas": "1"})).await?;
    let service = |name: &str, kind: &str| json!({"metadata": {"name": name}, "spec": {"type": kind, "ports": [{"port": 80, "targetPort": 80}]}});
    let api = cx.api(&SERVICES);
    api.create(&service("test-service", "ClusterIP")).await?;
    let node_port = json!({"metadata": {"name": "test-service-np"}, "spec": {"type": "NodePort",
        "ports": [{"port": 80, "targetPort": 80}]}});
    api.create(&node_port).await?;
    let mut balancer = service("test-service-lb", "LoadBalancer");
    balancer["spec"]["allocateLoadBalancerNodePorts"] = json!(true);
    exceeds(&cx, &SERVICES, &balancer, "a LoadBalancer Service whose node port exceeds the quota").await?;
    used(&cx, NAME, json!({"services": "2", "services.nodeports": "1", "services.loadbalancers": "0"}))
        .await?;
    for name in ["test-service", "test-service-np"] {
        api.delete(name).await?;
    }
    let none = json!({"services": "0", "services.nodeports": "0", "services.loadbalancers": "0"});
    used(&cx, NAME, none).await.map(|_| ())
}

/// An object counts while it is there.
async fn counted(
    cx: &Context,
    kind: &Kind,
    key: &str,
    body: &Value,
    name: &str,
    before: usize,
) -> Result<()> {
    used(cx, NAME, json!({key: before.to_string()})).await?;
    cx.api(kind).create(body).await?;
    used(cx, NAME, json!({key: (before + 1).to_string()})).await?;
    cx.api(kind).delete(name).await?;
    used(cx, NAME, json!({key: before.to_string()})).await.map(|_| ())
}

async fn secrets(cx: Context) -> Result<()> {
    let before = present(&cx, &SECRETS).await?;
    let mut limits = hard();
    limits["secrets"] = json!((before + 1).to_string());
    create(&cx, NAME, json!({"hard": limits})).await?;
    used(&cx, NAME, json!({"resourcequotas": "1"})).await?;
    let body = json!({"metadata": {"name": "test-secret"}, "data": {"data-1": "dmFsdWUtMQ0K"}});
    counted(&cx, &SECRETS, "secrets", &body, "test-secret", before).await
}

async fn config_maps(cx: Context) -> Result<()> {
    let before = present(&cx, &CONFIG_MAPS).await?;
    let mut limits = hard();
    limits["configmaps"] = json!((before + 1).to_string());
    create(&cx, NAME, json!({"hard": limits})).await?;
    used(&cx, NAME, json!({"resourcequotas": "1"})).await?;
    let body = json!({"metadata": {"name": "test-configmap"}, "data": {"a": "b"}});
    counted(&cx, &CONFIG_MAPS, "configmaps", &body, "test-configmap", before).await
}

async fn controllers(cx: Context) -> Result<()> {
    create(&cx, NAME, json!({"hard": hard()})).await?;
    used(&cx, NAME, json!({"resourcequotas": "1"})).await?;
    let labels = json!({"name": "test-rc"});
    let body = json!({"metadata": {"name": "test-rc"}, "spec": {"replicas": 0, "selector": labels, "template": {
        "metadata": {"labels": labels}, "spec": {"containers": [{"name": "test-rc", "image": PAUSE}]}}}});
    counted(&cx, &REPLICATION_CONTROLLERS, "replicationcontrollers", &body, "test-rc", 0).await
}

async fn replica_sets(cx: Context) -> Result<()> {
    create(&cx, NAME, json!({"hard": hard()})).await?;
    used(&cx, NAME, json!({"resourcequotas": "1"})).await?;
    let labels = json!({"name": "test-rs"});
    let body = json!({"metadata": {"name": "test-rs"}, "spec": {"replicas": 0, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "test-rs", "image": PAUSE}]}}}});
    counted(&cx, &REPLICA_SETS, "count/replicasets.apps", &body, "test-rs", 0).await
}

async fn update_and_delete(cx: Context) -> Result<()> {
    let api = cx.api(&RESOURCE_QUOTAS);
    let made = create(&cx, NAME, json!({"hard": {"cpu": "1", "memory": "500Mi"}})).await?;
    ensure_eq!(text(&made, "/spec/hard/cpu"), "1", "hard cpu");
    ensure_eq!(text(&made, "/spec/hard/memory"), "500Mi", "hard memory");
    let seen = api.get(NAME).await?;
    ensure_eq!(seen["spec"], made["spec"], "spec that was read");
    let updated = api.modify(NAME, |q| q["spec"]["hard"] = json!({"cpu": "2", "memory": "1Gi"})).await?;
    ensure_eq!(text(&updated, "/spec/hard/cpu"), "2", "hard cpu of the update");
    ensure_eq!(text(&updated, "/spec/hard/memory"), "1Gi", "hard memory of the update");
    let seen = api.get(NAME).await?;
    ensure_eq!(seen["spec"], updated["spec"], "spec after the update");
    api.delete(NAME).await?;
    api.wait_gone(NAME, LIMIT).await
}

async fn lifecycle(cx: Context) -> Result<()> {
    let name = format!("e2e-quota-{}", random(5));
    let api = cx.api(&RESOURCE_QUOTAS);
    let labels = json!({name.as_str(): "true"});
    let body = json!({"metadata": {"name": name, "labels": labels}, "spec": {"hard": {"cpu": "1", "memory": "500Mi"}}});
    api.create(&body).await?;
    let seen = api.get(&name).await?;
    ensure_eq!(text(&seen, "/spec/hard/cpu"), "1", "hard cpu");
    ensure_eq!(text(&seen, "/spec/hard/memory"), "500Mi", "hard memory");
    let selector = format!("{name}=true");
    ensure_eq!(
        cx.api_all(&RESOURCE_QUOTAS).labelled(&selector).await?.len(),
        1,
        "quotas over all namespaces"
    );
    let patch = json!({
        "metadata": {"labels": {name.as_str(): "patched"}},
        "spec": {"hard": {"memory": "750Mi"}},
    });
    let patched = api.patch(&name, Patch::Strategic(patch)).await?;
    ensure_eq!(patched["metadata"]["labels"][&name], json!("patched"), "label of the patch");
    ensure_eq!(text(&patched, "/spec/hard/memory"), "750Mi", "hard memory of the patch");
    let selector = format!("{name}=patched");
    api.delete_collection(&[("labelSelector", &selector)]).await?;
    let none = |all: &[&Value]| Ok(all.is_empty().then_some(()));
    api.wait_set(&[("labelSelector", &selector)], LIMIT, "no quota is left", none).await
}

async fn status(cx: Context) -> Result<()> {
    let name = format!("e2e-rq-status-{}", random(5));
    let api = cx.api(&RESOURCE_QUOTAS);
    let labels = json!({"e2e-rq-status-label": name});
    let spec = json!({"hard": {"cpu": "500m", "memory": "500Mi"}});
    api.create(&json!({"metadata": {"name": name, "labels": labels}, "spec": spec})).await?;
    // The controller copies the spec.
    let copied = |cpu: &'static str, memory: &'static str| {
        move |q: Option<&Value>| {
            Ok(q.is_some_and(|q| {
                text(q, "/status/hard/cpu") == cpu && text(q, "/status/hard/memory") == memory
            }))
        }
    };
    api.wait(&name, LIMIT, "status.hard follows the spec", copied("500m", "500Mi")).await?;
    let updated = api
        .modify_at(&name, "status", |q| q["status"]["hard"] = json!({"cpu": "600m", "memory": "600Mi"}))
        .await?;
    ensure_eq!(text(&updated, "/status/hard/cpu"), "600m", "status.hard of the update");
    ensure_eq!(updated["spec"], spec, "spec after an update of the status");
    api.wait(&name, LIMIT, "the controller puts status.hard right", copied("500m", "500Mi")).await?;
    let patch = json!({"status": {"hard": {"cpu": "700m", "memory": "700Mi"}}});
    let patched = api.patch(&format!("{name}/status"), Patch::Merge(patch)).await?;
    ensure_eq!(text(&patched, "/status/hard/memory"), "700Mi", "status.hard of the patch");
    ensure_eq!(patched["spec"], spec, "spec after a patch of the status");
    let seen = api.get(&format!("{name}/status")).await?;
    ensure_eq!(seen["metadata"]["uid"], patched["metadata"]["uid"], "uid in /status");
    api.wait(&name, LIMIT, "the controller puts status.hard right", copied("500m", "500Mi")).await?;
    // A changed spec is copied too.
    api.modify(&name, |q| q["spec"]["hard"] = json!({"cpu": "800m", "memory": "800Mi"})).await?;
    api.wait(&name, LIMIT, "status.hard follows the new spec", copied("800m", "800Mi")).await.map(|_| ())
}
