//! Upstream: `test/e2e/node/taints.go`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::api::{Api, Patch, array, text};
use crate::context::Context;
use crate::images::PAUSE;
use crate::kinds::NODES;
use crate::pods::{container, pod};

tests! {
    "[sig-node] NoExecuteTaintManager Single Pod removing taint cancels eviction [Disruptive] [Serial]" => cancels,
    "[sig-node] NoExecuteTaintManager Multiple Pods evicts pods with minTolerationSeconds [Disruptive] [Serial]" => minimum,
}

const KEY: &str = "kubernetes.io/e2e-evict-taint-key";
const VALUE: &str = "evictTaintVal";
/// What upstream grants for the work around a deletion.
const ADDITIONAL: u64 = 5;
/// What it grants the kubelet to delete a pod.
const KUBELET: u64 = 60;

fn tolerant(name: &str, seconds: u64, node: Option<&str>) -> Value {
    let mut pod = pod(name, json!([container("pause", PAUSE, &[])]));
    pod["metadata"]["labels"] = json!({"group": "taint-eviction"});
    pod["spec"]["terminationGracePeriodSeconds"] = json!(0);
    pod["spec"]["tolerations"] =
        json!([{"key": KEY, "value": VALUE, "effect": "NoExecute", "tolerationSeconds": seconds}]);
    if let Some(node) = node {
        pod["spec"]["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}});
    }
    pod
}

async fn taint(nodes: &Api, node: &str) -> Result<()> {
    nodes
        .modify(node, |n| {
            let taint = json!({"key": KEY, "value": VALUE, "effect": "NoExecute"});
            match n["spec"]["taints"].as_array_mut() {
                Some(list) => list.push(taint),
                None => n["spec"]["taints"] = json!([taint]),
            }
        })
        .await?;
    let seen = nodes.get(node).await?;
    let has = array(&seen, "/spec/taints").iter().any(|t| t["key"] == KEY);
    anyhow::ensure!(has, "the node lacks the taint: {}", seen["spec"]["taints"]);
    Ok(())
}

async fn untaint(nodes: &Api, node: &str) -> Result<()> {
    let seen = nodes.get(node).await?;
    let kept: Vec<&Value> = array(&seen, "/spec/taints").iter().filter(|t| t["key"] != KEY).collect();
    let kept = if kept.is_empty() { Value::Null } else { json!(kept) };
    nodes.patch(node, Patch::Merge(json!({"spec": {"taints": kept}}))).await.map(|_| ())
}

/// Whether a pod is being deleted or gone.
fn going(pod: Option<&Value>) -> bool {
    pod.is_none_or(|p| p["metadata"]["deletionTimestamp"].is_string())
}

async fn evicted(c: &Context, name: &str, seconds: u64) -> Result<()> {
    let limit = Duration::from_secs(seconds);
    c.pods().wait(name, limit, "the pod must be evicted", |p| Ok(going(p))).await.map(|_| ())
}

async fn cancels(c: Context) -> Result<()> {
    let name = c.unique("taint-eviction-4");
    let pod = c.start(&tolerant(&name, 2 * ADDITIONAL, None)).await?;
    let node = text(&pod, "/spec/nodeName").to_string();
    let nodes = c.api(&NODES);
    taint(&nodes, &node).await?;
    let steps = async {
        let limit = Duration::from_secs(ADDITIONAL);
        c.pods().never(&name, limit, "the pod was evicted before its tolerance had passed", going).await?;
        untaint(&nodes, &node).await?;
        c.pods()
            .never(
                &name,
                Duration::from_secs(KUBELET + ADDITIONAL),
                "the pod was evicted although the taint had been removed",
                going,
            )
            .await
    };
    let out = steps.await;
    untaint(&nodes, &node).await?;
    out
}

async fn minimum(c: Context) -> Result<()> {
    let (one, two) = (c.unique("taint-eviction-b1"), c.unique("taint-eviction-b2"));
    let pod = c.start(&tolerant(&one, ADDITIONAL, None)).await?;
    let hostname = text(
        &c.api(&NODES).get(text(&pod, "/spec/nodeName")).await?,
        "/metadata/labels/kubernetes.io~1hostname",
    )
    .to_string();
    let node = text(&pod, "/spec/nodeName").to_string();
    c.start(&tolerant(&two, 5 * ADDITIONAL, Some(&hostname))).await?;
    let nodes = c.api(&NODES);
    taint(&nodes, &node).await?;
    let steps = async {
        evicted(&c, &one, KUBELET + ADDITIONAL).await?;
        let second = c.pods().find(&two).await?;
        let stays = second.is_some_and(|p| p["metadata"]["deletionTimestamp"].is_null());
        anyhow::ensure!(stays, "the more tolerant pod was evicted with the other");
        evicted(&c, &two, KUBELET + 5 * ADDITIONAL).await
    };
    let out = steps.await;
    untaint(&nodes, &node).await?;
    out
}
