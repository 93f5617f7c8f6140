//! Upstream's deployment.go: life cycle, status, scale.

use std::time::Duration;

use serde_json::{Value, json};

use super::workloads::*;
use crate::Result;
use crate::api::{Api, Patch, number, text};
use crate::context::{Context, POD_START};
use crate::images::{AGNHOST, AGNHOST_PREV, PAUSE};
use crate::kinds::DEPLOYMENTS;
use crate::pods::container;

tests! {
    "[sig-apps] Deployment Deployment should have a working scale subresource" => scale,
    "[sig-apps] Deployment should run the lifecycle of a Deployment" => lifecycle,
    "[sig-apps] Deployment should validate Deployment Status endpoints" => status,
}

const NAME: &str = "test-deployment";
const STATIC: &str = "test-deployment-static=true";

async fn scale(cx: Context) -> Result<()> {
    let name = "test-new-deployment";
    let made = deployment(name, 1, &json!({"name": WEBSERVER}), webserver(), "RollingUpdate");
    cx.create(&DEPLOYMENTS, &made).await?;
    wait_revision(&cx, name, "1", AGNHOST).await?;
    wait_complete(&cx, name).await?;
    scale_battery(&cx, &DEPLOYMENTS, name).await
}

async fn status(cx: Context) -> Result<()> {
    let name = cx.unique("test-deployment");
    let selector = "e2e=testing";
    let version = list_version(&cx, &DEPLOYMENTS, selector).await?;
    let labels = json!({"name": WEBSERVER, "e2e": "testing"});
    cx.create(&DEPLOYMENTS, &deployment(&name, 1, &labels, webserver(), "RollingUpdate")).await?;
    wait_revision(&cx, &name, "1", AGNHOST).await?;
    wait_complete(&cx, &name).await?;
    status_battery(&cx, &DEPLOYMENTS, &name, selector, &version).await
}

fn ours(d: &Value) -> bool {
    text(d, "/metadata/name") == NAME && d["metadata"]["labels"]["test-deployment-static"] == "true"
}

fn image(d: &Value) -> &str {
    text(d, "/spec/template/spec/containers/0/image")
}

/// All of `count` replicas ready and updated, none unavailable.
fn rolled(d: &Value, count: i64) -> bool {
    ours(d)
        && number(d, "/status/readyReplicas") == count
        && number(d, "/status/updatedReplicas") == count
        && number(d, "/status/unavailableReplicas") == 0
}

/// The life of one Deployment, watched from before its creation.
struct Life {
    cx: Context,
    api: Api,
    version: String,
}

impl Life {
    async fn saw(
        &self,
        limit: Duration,
        what: &str,
        fits: impl Fn(&str, &Value) -> bool + Send + Sync,
    ) -> Result<()> {
        event(&self.api, STATIC, &self.version, limit, what, fits).await.map(|_| ())
    }

    /// From here on only later events count.
    async fn forget(&mut self) -> Result<()> {
        self.version = list_version(&self.cx, &DEPLOYMENTS, STATIC).await?;
        Ok(())
    }

    async fn create(&self) -> Result<Value> {
        let labels = json!({"test-deployment-static": "true"});
        let mut made = deployment(NAME, 2, &labels, container(NAME, AGNHOST, &["pause"]), "RollingUpdate");
        made["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(1);
        self.api.create(&made).await?;
        self.saw(Duration::from_secs(30), "ADDED", |kind, d| kind == "ADDED" && ours(d)).await?;
        let ready = |_: &str, d: &Value| ours(d) && number(d, "/status/readyReplicas") == 2;
        self.saw(POD_START, "two ready replicas", ready).await?;
        Ok(made)
    }

    async fn patch(&mut self) -> Result<()> {
        let patch = json!({
            "metadata": {"labels": {"test-deployment": "patched"}},
            "spec": {"replicas": 1, "template": {"spec": {
                "terminationGracePeriodSeconds": 2,
                "containers": [{"name": NAME, "image": PAUSE, "args": null}],
            }}},
        });
        self.api.patch(NAME, Patch::Strategic(patch)).await?;
        self.saw(Duration::from_secs(30), "MODIFIED", |kind, d| kind == "MODIFIED" && ours(d)).await?;
        let scaled = |_: &str, d: &Value| {
            rolled(d, 1)
                && image(d) == PAUSE
                && number(d, "/spec/template/spec/terminationGracePeriodSeconds") == 2
        };
        self.saw(POD_START, "one replica of the patched image", scaled).await?;
        let listed = self.cx.api_all(&DEPLOYMENTS).labelled(STATIC).await?;
        let found = listed.iter().any(|d| ours(d) && text(d, "/metadata/namespace") == self.cx.namespace());
        anyhow::ensure!(found, "the list over all namespaces does not have the Deployment: {listed:?}");
        self.forget().await
    }

    async fn replace(&mut self, made: &Value) -> Result<()> {
        let mut update = made.clone();
        update["metadata"]["labels"]["test-deployment"] = json!("updated");
        update["spec"]["template"]["spec"]["containers"][0]["image"] = json!(AGNHOST_PREV);
        self.api.update(&update).await?;
        self.saw(Duration::from_secs(30), "MODIFIED", |kind, d| kind == "MODIFIED" && ours(d)).await?;
        self.check_updated().await?;
        self.saw(POD_START, "two replicas of the updated image", |_, d| {
            rolled(d, 2) && image(d) == AGNHOST_PREV
        })
        .await
    }

    /// What the replacement set is in `/status` too, and a status patch does not change labels.
    async fn check_updated(&self) -> Result<()> {
        let seen = self.api.get(&format!("{NAME}/status")).await?;
        ensure_eq!(image(&seen), AGNHOST_PREV, "image in /status");
        ensure_eq!(seen["metadata"]["labels"]["test-deployment"], json!("updated"), "label in /status");
        Ok(())
    }

    async fn patch_status(&mut self) -> Result<()> {
        self.forget().await?;
        let patch = json!({
            "metadata": {"labels": {"test-deployment": "patched-status"}},
            "status": {"readyReplicas": 0, "availableReplicas": 0},
        });
        self.api.patch(&format!("{NAME}/status"), Patch::Strategic(patch)).await?;
        self.saw(Duration::from_secs(30), "MODIFIED", |kind, d| kind == "MODIFIED" && ours(d)).await?;
        self.check_updated().await?;
        self.saw(POD_START, "the true status again", |_, d| rolled(d, 2) && image(d) == AGNHOST_PREV).await
    }
}

async fn lifecycle(cx: Context) -> Result<()> {
    let version = list_version(&cx, &DEPLOYMENTS, STATIC).await?;
    let mut life = Life { api: cx.api(&DEPLOYMENTS), cx, version };
    let made = life.create().await?;
    life.patch().await?;
    life.replace(&made).await?;
    life.patch_status().await?;
    life.api.delete_collection(&[("labelSelector", STATIC)]).await?;
    life.saw(MINUTE, "DELETED", |kind, d| kind == "DELETED" && ours(d)).await
}
