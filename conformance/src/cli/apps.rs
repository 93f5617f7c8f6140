//! Upstream's kubectl.go: the update demo.

use std::time::Duration;

use serde_json::{Value, json};

use super::kubectl::{kubectl, kubectl_with};
use crate::Result;
use crate::context::{Context, POD_START};
use crate::images::NAUTILUS;

tests! {
    "[sig-cli] Kubectl client Update Demo should create and stop a replication controller" => create_and_stop,
    "[sig-cli] Kubectl client Update Demo should scale a replication controller" => scale,
}

fn nautilus() -> Value {
    json!({
        "apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "update-demo-nautilus"},
        "spec": {"replicas": 2, "selector": {"name": "update-demo", "version": "nautilus"}, "template": {
            "metadata": {"labels": {"name": "update-demo", "version": "nautilus"}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
                "name": "update-demo", "image": NAUTILUS,
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
            }]},
        }},
    })
}

const NAMES: &str = "--template={{range.items}}{{.metadata.name}} {{end}}";
const RUNNING: &str = "--template={{if (exists . \"status\" \"containerStatuses\")}}{{range .status.containerStatuses}}{{if (and (eq .name \"update-demo\") (exists . \"state\" \"running\"))}}true{{end}}{{end}}{{end}}";
const IMAGE: &str = "--template={{if (exists . \"spec\" \"containers\")}}{{range .spec.containers}}{{if eq .name \"update-demo\"}}{{.image}}{{end}}{{end}}{{end}}";

/// Waits until kubectl shows so many running pods of the image, each of which serves its picture.
async fn validate(cx: &Context, replicas: usize) -> Result<()> {
    let what = format!("{replicas} pods of the demo");
    crate::watch::poll(POD_START, Duration::from_secs(2), &what, || async {
        let names = kubectl(cx, &["get", "pods", "-o", "template", NAMES, "-l", "name=update-demo"]).await?;
        let names: Vec<&str> = names.split_whitespace().collect();
        anyhow::ensure!(names.len() == replicas, "the pods are {names:?}");
        for name in names {
            let running = kubectl(cx, &["get", "pods", name, "-o", "template", RUNNING]).await?;
            anyhow::ensure!(running == "true", "{name} is created but not running");
            let image = kubectl(cx, &["get", "pods", name, "-o", "template", IMAGE]).await?;
            anyhow::ensure!(image == NAUTILUS, "{name} has image {image}");
            let data = cx.rest().get(&cx.pods().path_of(&format!("{name}/proxy/data.json"))).await?;
            anyhow::ensure!(data["image"] == "nautilus.jpg", "{name} serves {data}");
        }
        Ok(Some(()))
    })
    .await
}

/// Deletes by manifest; nothing with the label may be left.
async fn stop(cx: &Context) -> Result<()> {
    kubectl_with(cx, &["delete", "--grace-period=0", "--force", "-f", "-"], &nautilus().to_string()).await?;
    let limit = Duration::from_secs(60);
    crate::watch::poll(limit, Duration::from_secs(1), "everything of the demo is gone", || async {
        let left = kubectl(cx, &["get", "rc,svc", "-l", "name=update-demo", "--no-headers"]).await?;
        anyhow::ensure!(left.trim().is_empty(), "left: {left}");
        let alive = "--template={{ range .items }}{{ if not .metadata.deletionTimestamp }}{{ .metadata.name }}{{ \"\\n\" }}{{ end }}{{ end }}";
        let left = kubectl(cx, &["get", "pods", "-l", "name=update-demo", "-o", "go-template", alive]).await?;
        anyhow::ensure!(left.trim().is_empty(), "left: {left}");
        Ok(Some(()))
    })
    .await
}

async fn create_and_stop(cx: Context) -> Result<()> {
    kubectl_with(&cx, &["create", "-f", "-"], &nautilus().to_string()).await?;
    validate(&cx, 2).await?;
    stop(&cx).await
}

async fn scale(cx: Context) -> Result<()> {
    kubectl_with(&cx, &["create", "-f", "-"], &nautilus().to_string()).await?;
    validate(&cx, 2).await?;
    for replicas in [1, 2] {
        let count = format!("--replicas={replicas}");
        kubectl(&cx, &["scale", "rc", "update-demo-nautilus", &count, "--timeout=5m"]).await?;
        validate(&cx, replicas).await?;
    }
    stop(&cx).await
}
