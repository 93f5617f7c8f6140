//! Upstream's kubectl.go: changing objects.

use serde_json::{Value, json};

use super::kubectl::{kubectl, kubectl_with, pause_pod, primary_controller, run_with, running};
use crate::Result;
use crate::api::{array, number, text};
use crate::context::Context;
use crate::images::{AGNHOST, BUSYBOX};
use crate::kinds::{ENDPOINTS, SERVICES};

tests! {
    "[sig-cli] Kubectl client Kubectl diff should check if kubectl diff finds a difference for Deployments" => diff,
    "[sig-cli] Kubectl client Kubectl expose should create services for rc" => expose,
    "[sig-cli] Kubectl client Kubectl label should update the label on a resource" => label,
    "[sig-cli] Kubectl client Kubectl patch should add annotations for pods in rc" => patch,
    "[sig-cli] Kubectl client Kubectl replace should update a single-container pod's image" => replace,
    "[sig-cli] Kubectl client Kubectl run pod should create a pod from an image when restart is Never" => run_pod,
    "[sig-cli] Kubectl client Kubectl server-side dry-run should check if kubectl can dry-run update Pods" => dry_run,
}

const POD: &str = "e2e-test-agnhost-pod";

async fn diff(cx: Context) -> Result<()> {
    let labels = json!({"app": "agnhost"});
    let deployment = |image: &str| {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "agnhost-deployment"},
            "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "agnhost", "image": image, "ports": [{"containerPort": 80}]}]},
            }},
        })
        .to_string()
    };
    kubectl_with(&cx, &["create", "-f", "-"], &deployment(AGNHOST)).await?;
    let ran = run_with(&cx, &["diff", "-f", "-"], &deployment(BUSYBOX)).await?;
    ensure_eq!(ran.code, 1, "exit code of diff (1: differences found): {}", ran.err);
    for image in [AGNHOST, BUSYBOX] {
        ensure_contains!(ran.out, image, "output of diff");
    }
    kubectl_with(&cx, &["delete", "-f", "-"], &deployment(AGNHOST)).await.map(|_| ())
}

/// The Service has that port, and its endpoints the target.
async fn exposed(cx: &Context, name: &str, port: i64, target: i64) -> Result<()> {
    let limit = crate::context::POD_START;
    let ready = |e: Option<&Value>| {
        let sets = e.map(|e| array(e, "/subsets")).unwrap_or_default();
        Ok(sets.len() == 1
            && array(&sets[0], "/addresses").len() == 1
            && array(&sets[0], "/ports").len() == 1)
    };
    let endpoints = cx.api(&ENDPOINTS).wait(name, limit, "one endpoint", ready).await?;
    ensure_eq!(number(&endpoints, "/subsets/0/ports/0/port"), target, "port of the endpoints of {name}");
    let service = cx.api(&SERVICES).get(name).await?;
    ensure_eq!(array(&service, "/spec/ports").len(), 1, "ports of {name}");
    ensure_eq!(number(&service, "/spec/ports/0/port"), port, "port of {name}");
    ensure_eq!(service["spec"]["ports"][0]["targetPort"], json!(target), "targetPort of {name}");
    Ok(())
}

async fn expose(cx: Context) -> Result<()> {
    kubectl_with(&cx, &["create", "-f", "-"], &primary_controller().to_string()).await?;
    running(&cx, "app=agnhost", 1).await?;
    kubectl(&cx, &["expose", "rc", "agnhost-primary", "--name=rm2", "--port=1234", "--target-port=6379"])
        .await?;
    exposed(&cx, "rm2", 1234, 6379).await?;
    kubectl(&cx, &["expose", "service", "rm2", "--name=rm3", "--port=2345", "--target-port=6379"]).await?;
    exposed(&cx, "rm3", 2345, 6379).await
}

async fn label(cx: Context) -> Result<()> {
    let pod = pause_pod("pause").to_string();
    kubectl_with(&cx, &["create", "-f", "-"], &pod).await?;
    cx.pods().wait_ready("pause").await?;
    let (key, value) = ("testing-label", "testing-label-value");
    kubectl(&cx, &["label", "pods", "pause", &format!("{key}={value}")]).await?;
    let out = kubectl(&cx, &["get", "pod", "pause", "-L", key]).await?;
    ensure_contains!(out, value, "column of the label");
    kubectl(&cx, &["label", "pods", "pause", &format!("{key}-")]).await?;
    let out = kubectl(&cx, &["get", "pod", "pause", "-L", key]).await?;
    anyhow::ensure!(!out.contains(value), "the removed label is still shown: {out}");
    kubectl_with(&cx, &["delete", "--grace-period=0", "--force", "-f", "-"], &pod).await.map(|_| ())
}

async fn patch(cx: Context) -> Result<()> {
    kubectl_with(&cx, &["create", "-f", "-"], &primary_controller().to_string()).await?;
    for name in running(&cx, "app=agnhost", 1).await? {
        kubectl(&cx, &["patch", "pod", &name, "-p", r#"{"metadata":{"annotations":{"x":"y"}}}"#]).await?;
        let pod = cx.pods().get(&name).await?;
        ensure_eq!(text(&pod, "/metadata/annotations/x"), "y", "annotation x of {name}");
    }
    Ok(())
}

async fn run(cx: &Context) -> Result<()> {
    let args = ["run", POD, &format!("--image={AGNHOST}"), &format!("--labels=run={POD}")];
    kubectl(cx, &args).await?;
    running(cx, &format!("run={POD}"), 1).await.map(|_| ())
}

async fn image(cx: &Context) -> Result<String> {
    Ok(text(&cx.pods().get(POD).await?, "/spec/containers/0/image").to_string())
}

async fn replace(cx: Context) -> Result<()> {
    run(&cx).await?;
    let json = kubectl(&cx, &["get", "pod", POD, "-o", "json"]).await?;
    let changed = json.replace(AGNHOST, BUSYBOX);
    kubectl_with(&cx, &["replace", "-f", "-"], &changed).await?;
    ensure_eq!(image(&cx).await?, BUSYBOX, "image of the replaced pod");
    kubectl(&cx, &["delete", "pods", POD]).await.map(|_| ())
}

async fn run_pod(cx: Context) -> Result<()> {
    kubectl(&cx, &["run", POD, "--restart=Never", &format!("--image={AGNHOST}")]).await?;
    let pod = cx.pods().get(POD).await?;
    let containers = array(&pod, "/spec/containers");
    ensure_eq!(containers.len(), 1, "containers of the pod");
    ensure_eq!(text(&containers[0], "/image"), AGNHOST, "image of the pod");
    ensure_eq!(text(&pod, "/spec/restartPolicy"), "Never", "restartPolicy of the pod");
    kubectl(&cx, &["delete", "pods", POD]).await.map(|_| ())
}

async fn dry_run(cx: Context) -> Result<()> {
    run(&cx).await?;
    let patch = json!({"spec": {"containers": [{"name": POD, "image": BUSYBOX}]}}).to_string();
    kubectl(&cx, &["patch", "pod", POD, "-p", &patch, "--dry-run=server"]).await?;
    ensure_eq!(image(&cx).await?, AGNHOST, "image after a dry run");
    kubectl(&cx, &["delete", "pods", POD]).await.map(|_| ())
}
