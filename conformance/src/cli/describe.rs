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
    let pods = running(&cx, "app=agnhost", 1).await?;
    let ns = cx.namespace();
    for pod in &pods {
        check(
            &kubectl(&cx, &["describe", "pod", pod]).await?,
            &[
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
            ],
        )?;
    }
    // The counts in the status follow the pods.
    let described = |out: String| -> Result<()> {
        check(
            &out,
            &[
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
            ],
        )
    };
    let limit = std::time::Duration::from_secs(60);
    crate::watch::poll(limit, std::time::Duration::from_secs(1), "describe rc", || async {
        described(kubectl(&cx, &["describe", "rc", "agnhost-primary"]).await?).map(Some)
    })
    .await?;
    check(
        &kubectl(&cx, &["describe", "service", "agnhost-primary"]).await?,
        &[
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
        ],
    )?;
    let node = cx.node().await?;
    let node = name_of(&node)?;
    check(
        &kubectl(&cx, &["describe", "node", node]).await?,
        &[
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
        ],
    )?;
    check(
        &kubectl(&cx, &["describe", "namespace", ns]).await?,
        &[&["Name:", ns], &["Labels:"], &["Annotations:"], &["Status:", "Active"]],
    )
}
