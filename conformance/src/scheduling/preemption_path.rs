//! Upstream: `test/e2e/scheduling/preemption.go`, the path through ReplicaSets.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::nodes::{advertise, name, pause};
use crate::Result;
use crate::api::text;
use crate::context::{Context, POD_START};
use crate::kinds::{PRIORITY_CLASSES, REPLICA_SETS};
use crate::pods::phase;

tests! {
    "[sig-scheduling] SchedulerPreemption PreemptionExecutionPath runs ReplicaSets to verify preemption running path [Serial]" => path,
}

const RESOURCE: &str = "example.com/fakecpu";

async fn path(c: Context) -> Result<()> {
    let node = c.node().await?;
    advertise(&c, name(&node), RESOURCE, json!("1000")).await?;
    let out = steps(&c, &node).await;
    advertise(&c, name(&node), RESOURCE, Value::Null).await?;
    out
}

/// Three ReplicaSets fill 950 of 1000; a pod that wants 500 drives out the two of the least priority and no more.
async fn steps(c: &Context, node: &Value) -> Result<()> {
    let mut classes = Vec::new();
    for value in 1..5 {
        let class = c.unique(&format!("p{value}"));
        c.create(&PRIORITY_CLASSES, &json!({"metadata": {"name": class}, "value": value})).await?;
        classes.push(class);
    }
    let selector = json!({"kubernetes.io/hostname": node["metadata"]["labels"]["kubernetes.io/hostname"]});
    let template = |app: &str, class: &str, amount: &str| {
        let fields = json!({"priorityClassName": class, "nodeSelector": selector});
        let mut pod = pause(app, json!({RESOURCE: amount}), fields);
        pod["spec"]["restartPolicy"] = json!("Always");
        pod["metadata"] = json!({"labels": {"name": app}});
        pod
    };
    for (n, (app, amount)) in [("pod1", "200"), ("pod2", "300"), ("pod3", "450")].into_iter().enumerate() {
        let set = json!({"metadata": {"name": format!("rs-{app}")}, "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"name": app}},
            "template": template(app, &classes[n], amount),
        }});
        c.create(&REPLICA_SETS, &set).await?;
        let query = format!("name={app}");
        c.pods()
            .wait_set(&[("labelSelector", &query)], POD_START, "the pod of the set must run", |l| {
                Ok(l.iter().any(|p| phase(p) == "Running").then_some(()))
            })
            .await?;
    }
    let before: BTreeSet<String> =
        c.pods().items(&[]).await?.iter().map(|p| text(p, "/metadata/uid").to_string()).collect();
    let mut last = template("pod4", &classes[3], "500");
    last["metadata"]["name"] = json!("pod4");
    c.pods().create(&last).await?;
    c.pods().wait_running("pod4").await?;
    let what = "pod3 must stay, pod1 and pod2 be replaced by pods that do not fit";
    c.pods()
        .wait_set(&[], POD_START, what, |l| {
            let mut state: BTreeMap<&str, Vec<(bool, &str)>> = BTreeMap::new();
            for p in l.iter().filter(|p| p["metadata"]["deletionTimestamp"].is_null()) {
                let old = before.contains(text(p, "/metadata/uid"));
                state.entry(text(p, "/metadata/labels/name")).or_default().push((old, phase(p)));
            }
            anyhow::ensure!(
                state.get("pod3").is_some_and(|s| s.contains(&(true, "Running"))),
                "pod3 was preempted: {state:?}"
            );
            let replaced = |app: &str| state.get(app).is_some_and(|s| s.as_slice() == [(false, "Pending")]);
            Ok((replaced("pod1") && replaced("pod2")).then_some(()))
        })
        .await
}
