//! Upstream's kubectl.go: describe.

use super::kubectl::{kubectl, kubectl_with, primary_controller, primary_service, running};
use crate::Result;
use crate::api::name_of;
use crate::context::Context;
use crate::images::AGNHOST;

tests! {
    "[sig-cli] Kubectl client Kubectl describe should check if kubectl describe prints relevant information for rc and pods" => describe,
}

/// Each list must be found in the output, its words in order on one line.
fn check(out: &str, wanted: &[&[&str]]) -> Result<()> {
    for words in wanted {
        let found = out.lines().any(|line| {
            let mut rest = line;
            words.iter().all(|word| match rest.find(word) {
                Some(at) => {
                    rest = &rest[at + word.len()..];
                    true
                }
                None => false,
            })
        });
        anyhow::ensure!(found, "no line with {words:?} in:\n{out}");
    }
    Ok(())
}

async fn describe(cx: Context) -> Result<()> {
    for manifest in [primary_controller(), primary_service()] {
        kubectl_with(&cx, &["create", "-f", "-"], &manifest.to_string()).await?;
    }
    describe_workload(&cx).await?;
    describe_rest(&cx).await
}

async fn describe_workload(cx: &Context) -> Result<()> {
    let ns = cx.namespace();
    let of_pod: &[&[&str]] = &[
        &["Name:", "agnhost-primary-"],
        &["Namespace:", ns],
        &["Node:"],
        &["Labels:", "app=agnhost"],
        &["role=primary"],
        &["Annotations:"],
        &["Status:", "Running"],
        &["IP:"],
        &["Controlled By:", "ReplicationController/agnhost-primary"],
        &["Image:", AGNHOST],
        &["State:", "Running"],
        &["QoS Class:", "BestEffort"],
    ];
    for pod in &running(cx, "app=agnhost", 1).await? {
        check(&kubectl(cx, &["describe", "pod", pod]).await?, of_pod)?;
    }
    let of_controller: &[&[&str]] = &[
        &["Name:", "agnhost-primary"],
        &["Namespace:", ns],
        &["Selector:", "app=agnhost,role=primary"],
        &["Labels:", "app=agnhost"],
        &["role=primary"],
        &["Annotations:"],
        &["Replicas:", "1 current", "1 desired"],
        &["Pods Status:", "1 Running", "0 Waiting", "0 Succeeded", "0 Failed"],
        &["Pod Template:"],
        &["Image:", AGNHOST],
        &["Events:"],
    ];
    // The counts in the status follow the pods.
    let (limit, step) = (std::time::Duration::from_secs(60), std::time::Duration::from_secs(1));
    crate::watch::poll(limit, step, "describe rc", || async {
        check(&kubectl(cx, &["describe", "rc", "agnhost-primary"]).await?, of_controller).map(Some)
    })
    .await
}

async fn describe_rest(cx: &Context) -> Result<()> {
    let ns = cx.namespace();
    let of_service: &[&[&str]] = &[
        &["Name:", "agnhost-primary"],
        &["Namespace:", ns],
        &["Labels:", "app=agnhost"],
        &["role=primary"],
        &["Annotations:"],
        &["Selector:", "app=agnhost", "role=primary"],
        &["Type:", "ClusterIP"],
        &["IP:"],
        &["Port:", "<unset>", "6379/TCP"],
        &["Endpoints:"],
        &["Session Affinity:", "None"],
    ];
    check(&kubectl(cx, &["describe", "service", "agnhost-primary"]).await?, of_service)?;
    let node = cx.node().await?;
    let node = name_of(&node)?;
    let of_node: &[&[&str]] = &[
        &["Name:", node],
        &["Labels:"],
        &["Annotations:"],
        &["CreationTimestamp:"],
        &["Conditions:"],
        &["Type", "Status", "LastHeartbeatTime", "LastTransitionTime", "Reason", "Message"],
        &["Addresses:"],
        &["Capacity:"],
        &["Kernel Version:"],
        &["OS Image:"],
        &["Container Runtime Version:"],
        &["Kubelet Version:"],
        &["Pods:"],
    ];
    check(&kubectl(cx, &["describe", "node", node]).await?, of_node)?;
    let of_namespace: &[&[&str]] = &[&["Name:", ns], &["Labels:"], &["Annotations:"], &["Status:", "Active"]];
    check(&kubectl(cx, &["describe", "namespace", ns]).await?, of_namespace)
}
