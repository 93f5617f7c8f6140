//! Upstream: `test/e2e/scheduling/predicates.go`.

use serde_json::{Value, json};

use super::nodes::{label, name, on_node, pause, stays_pending};
use crate::Result;
use crate::api::{array, text};
use crate::context::Context;
use crate::kinds::PODS;
use crate::quantity::milli;

tests! {
    "[sig-scheduling] SchedulerPredicates validates resource limits of pods that are allowed to run [Serial]" => resources,
    "[sig-scheduling] SchedulerPredicates validates that NodeSelector is respected if not matching [Serial]" => not_matching,
    "[sig-scheduling] SchedulerPredicates validates that NodeSelector is respected if matching [Serial]" => matching,
    "[sig-scheduling] SchedulerPredicates validates that there exists conflict between pods with same hostPort and protocol but one using 0.0.0.0 hostIP [Serial]" => host_port,
}

fn requested(pod: &Value) -> Result<i128> {
    let containers = array(pod, "/spec/containers").iter();
    containers.map(|c| milli(c["resources"]["requests"]["cpu"].as_str().unwrap_or("0"))).sum()
}

/// Fills each node to some seven tenths of what is left, then asks for more than any has.
async fn resources(c: Context) -> Result<()> {
    let all = c.api_all(&PODS).items(&[]).await?;
    let mut most = 0;
    for (n, node) in c.nodes().await?.iter().enumerate() {
        let here = all.iter().filter(|p| text(p, "/spec/nodeName") == name(node));
        let live = here.filter(|p| !matches!(crate::pods::phase(p), "Succeeded" | "Failed"));
        let used: i128 = live.map(requested).sum::<Result<i128>>()?;
        let free = milli(text(node, "/status/allocatable/cpu"))? - used;
        anyhow::ensure!(free > 10, "node {} has {free} m of CPU left", name(node));
        let fill = free * 7 / 10;
        most = most.max(free - fill);
        let filler = pause(
            &format!("filler-pod-{n}"),
            json!({"cpu": format!("{fill}m")}),
            json!({"affinity": on_node(name(node))}),
        );
        let running = c.start(&filler).await?;
        ensure_eq!(text(&running, "/spec/nodeName"), name(node), "node of the filler");
    }
    let more = pause("additional-pod", json!({"cpu": format!("{}m", most + 1)}), json!({}));
    c.pods().create(&more).await?;
    stays_pending(&c, "additional-pod").await
}

async fn not_matching(c: Context) -> Result<()> {
    let fields = json!({"nodeSelector": {"label": "nonempty"}});
    c.pods().create(&pause("restricted-pod", Value::Null, fields)).await?;
    stays_pending(&c, "restricted-pod").await
}

async fn matching(c: Context) -> Result<()> {
    let first = c.start(&pause("without-label", Value::Null, json!({}))).await?;
    let node = text(&first, "/spec/nodeName").to_string();
    c.remove_pod("without-label").await?;
    let key = format!("kubernetes.io/e2e-{}", c.unique("label"));
    label(&c, &node, &key, json!("42")).await?;
    let fields = json!({"nodeSelector": {key.as_str(): "42"}});
    let out = c.start(&pause("with-labels", Value::Null, fields)).await;
    label(&c, &node, &key, Value::Null).await?;
    let out = out?;
    ensure_eq!(text(&out, "/spec/nodeName"), node, "node of the pod with the selector");
    Ok(())
}

async fn host_port(c: Context) -> Result<()> {
    let node = c.node().await?;
    let address = array(&node, "/status/addresses").iter().find(|a| a["type"] == "InternalIP");
    let address = address.map_or("", |a| text(a, "/address"));
    for (pod, ip) in [("pod4", "0.0.0.0"), ("pod5", address)] {
        let mut pod = pause(pod, Value::Null, json!({"affinity": on_node(name(&node))}));
        pod["spec"]["containers"][0]["ports"] =
            json!([{"hostPort": 54322, "containerPort": 8080, "protocol": "TCP", "hostIP": ip}]);
        if ip == "0.0.0.0" {
            c.start(&pod).await?;
        } else {
            c.pods().create(&pod).await?;
        }
    }
    stays_pending(&c, "pod5").await
}
