//! Upstream: `test/e2e/scheduling/preemption.go`.

use std::time::Duration;

use serde_json::{Value, json};

use super::nodes::{advertise, name, on_node, pause};
use crate::Result;
use crate::api::{Patch, condition, text};
use crate::context::{Context, POD_START};
use crate::kinds::{PODS, PRIORITY_CLASSES};
use crate::rest::refused;

tests! {
    "[sig-scheduling] SchedulerPreemption validates basic preemption works [Serial]" => |c| preempts(c, false),
    "[sig-scheduling] SchedulerPreemption validates lower priority pod preemption by critical pod [Serial]" => |c| preempts(c, true),
    "[sig-scheduling] SchedulerPreemption validates pod disruption condition is added to the preempted pod [Serial]" => disruption,
    "[sig-scheduling] SchedulerPreemption PriorityClass endpoints verify PriorityClass endpoints can be operated with different HTTP methods [Serial]" => classes,
}

const RESOURCE: &str = "scheduling.k8s.io/foo";

/// Low, medium and high, made for this test.
async fn priorities(c: &Context) -> Result<[String; 3]> {
    let names = ["low", "medium", "high"].map(|n| c.unique(&format!("sched-preemption-{n}-priority")));
    for (name, value) in names.iter().zip([1, 100, 1000]) {
        c.create(&PRIORITY_CLASSES, &json!({"metadata": {"name": name}, "value": value})).await?;
    }
    Ok(names)
}

/// Runs steps with an extended resource on all nodes, and takes it back.
async fn with_resource<F: Future<Output = Result<()>>>(c: &Context, amount: &str, steps: F) -> Result<()> {
    let nodes = c.nodes().await?;
    for node in &nodes {
        advertise(c, name(node), RESOURCE, json!(amount)).await?;
    }
    let out = steps.await;
    for node in &nodes {
        advertise(c, name(node), RESOURCE, Value::Null).await?;
    }
    out
}

async fn preempts(c: Context, critical: bool) -> Result<()> {
    let [low, medium, high] = priorities(&c).await?;
    with_resource(&c, "5", async {
        let mut victims = Vec::new();
        for (n, node) in c.nodes().await?.iter().enumerate() {
            for k in 0..2 {
                let class = if victims.is_empty() { &low } else { &medium };
                let pod = format!("pod{n}-{k}");
                let fields = json!({"priorityClassName": class, "affinity": on_node(name(node))});
                c.start(&pause(&pod, json!({RESOURCE: "2"}), fields)).await?;
                victims.push(pod);
            }
        }
        let (pods, class) = if critical {
            (c.api_in(&PODS, "kube-system"), "system-cluster-critical")
        } else {
            (c.pods(), high.as_str())
        };
        let preemptor = c.unique(if critical { "critical-pod" } else { "preemptor-pod" });
        let fields = json!({"priorityClassName": class});
        pods.create(&pause(&preemptor, json!({RESOURCE: "2"}), fields)).await?;
        c.cleanup(&pods, &preemptor);
        pods.wait_running(&preemptor).await?;
        let first = c.pods().find(&victims[0]).await?;
        let preempted = first.is_none_or(|p| p["metadata"]["deletionTimestamp"].is_string());
        anyhow::ensure!(preempted, "the pod of the lowest priority was not preempted");
        for victim in &victims[1..] {
            let pod = c.pods().get(victim).await?;
            anyhow::ensure!(
                pod["metadata"]["deletionTimestamp"].is_null(),
                "{victim} of medium priority is being deleted"
            );
        }
        pods.delete_now(&preemptor).await?;
        pods.wait_gone(&preemptor, POD_START).await
    })
    .await
}

async fn disruption(c: Context) -> Result<()> {
    let [low, _, high] = priorities(&c).await?;
    with_resource(&c, "1", async {
        let node = c.node().await?;
        let fields = |class: &str| json!({"priorityClassName": class, "affinity": on_node(name(&node))});
        let mut victim = pause("victim-pod", json!({RESOURCE: "1"}), fields(&low));
        // Held so that its last state can be looked at.
        victim["metadata"]["finalizers"] = json!(["example.com/test-finalizer"]);
        c.start(&victim).await?;
        c.pods().create(&pause("preemptor-pod", json!({RESOURCE: "1"}), fields(&high))).await?;
        let what = "the victim must be deleted with the condition DisruptionTarget";
        let marked = |p: &Value| {
            let seen = condition(p, "DisruptionTarget");
            p["metadata"]["deletionTimestamp"].is_string()
                && seen["status"] == "True"
                && seen["reason"] == "PreemptionByScheduler"
        };
        let out = c.pods().wait("victim-pod", POD_START, what, |p| Ok(p.is_some_and(marked))).await;
        c.pods().patch("victim-pod", Patch::Merge(json!({"metadata": {"finalizers": null}}))).await?;
        out?;
        c.pods().wait_running("preemptor-pod").await.map(|_| ())
    })
    .await
}

async fn classes(c: Context) -> Result<()> {
    let api = c.api(&PRIORITY_CLASSES);
    let label = c.unique("priority");
    let names = [c.unique("p1"), c.unique("p2")];
    for (name, value) in names.iter().zip([1, 2]) {
        let body = json!({"metadata": {"name": name, "labels": {"e2e-test": label}}, "value": value});
        c.create(&PRIORITY_CLASSES, &body).await?;
    }
    for (name, value) in names.iter().zip([1, 2]) {
        let seen = api.get(name).await?;
        ensure_eq!(seen["value"], json!(value), "value of {name}");
        let mut changed = seen.clone();
        changed["value"] = json!(value * 10);
        let refusal = refused(api.update(&changed).await, 422, "an update of the value")?;
        ensure_contains!(refusal.message(), "may not be changed in an update", "the refusal");
        let patch = Patch::Json(json!([{"op": "replace", "path": "/value", "value": value * 10}]));
        let refusal = refused(api.patch(name, patch).await, 422, "a patch of the value")?;
        ensure_contains!(refusal.message(), "may not be changed in an update", "the refusal");
        let patched = api.patch(name, Patch::Merge(json!({"description": "changed"}))).await?;
        ensure_eq!(text(&patched, "/description"), "changed", "description after the patch");
        let updated = api.modify(name, |p| p["metadata"]["annotations"] = json!({"updated": "true"})).await?;
        ensure_eq!(text(&updated, "/metadata/annotations/updated"), "true", "annotation after the update");
        ensure_eq!(updated["value"], json!(value), "value at the end");
    }
    let selector = format!("e2e-test={label}");
    let query = [("labelSelector", selector.as_str())];
    ensure_eq!(api.items(&query).await?.len(), 2, "classes with the label");
    api.delete_collection(&query).await?;
    api.wait_set(&query, Duration::from_secs(60), "nothing left of the collection", |l| {
        Ok(l.is_empty().then_some(()))
    })
    .await
}
