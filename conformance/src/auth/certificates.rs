//! Upstream's certificates.go.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::pki;
use crate::Result;
use crate::api::{Patch, array, text};
use crate::apimachinery::battery::{Battery, Run};
use crate::context::Context;
use crate::kinds::SIGNING_REQUESTS;

tests! {
    "[sig-auth] Certificates API [Privileged:ClusterAdmin] should support CSR API operations" => operations,
}

async fn operations(cx: Context) -> Result<()> {
    let (pem, _) = pki::request("e2e.example.com")?;
    let template = json!({"spec": {
        "request": STANDARD.encode(pem),
        "signerName": format!("example.com/e2e-{}", cx.namespace()),
        "expirationSeconds": 3600,
        "usages": ["digital signature", "key encipherment", "server auth"],
    }});
    let battery = Battery {
        kind: &SIGNING_REQUESTS,
        resources: &[
            "certificatesigningrequests",
            "certificatesigningrequests/approval",
            "certificatesigningrequests/status",
        ],
        template,
        patch: json!({}),
        update: |_| {},
        pointer: "",
    };
    let run = battery.begin(&cx).await?;
    approval(&run).await?;
    certificate(&cx, &run).await?;
    run.finish().await
}

fn has(csr: &Value, kind: &str) -> bool {
    array(csr, "/status/conditions").iter().any(|c| c["type"] == kind)
}

async fn approval(run: &Run) -> Result<()> {
    let path = format!("{}/approval", run.name);
    let seen = run.api.get(&path).await?;
    ensure_eq!(seen["metadata"]["name"], json!(run.name), "name in /approval");
    let patch = json!({
        "metadata": {"annotations": {"patchedapproval": "true"}},
        "status": {"conditions": [{"type": "ApprovalPatch", "status": "True", "reason": "e2e"}]},
    });
    let patched = run.api.patch(&path, Patch::Merge(patch)).await?;
    anyhow::ensure!(
        has(&patched, "ApprovalPatch"),
        "the patched condition is missing in {}",
        patched["status"]
    );
    ensure_eq!(
        patched["metadata"]["annotations"]["patchedapproval"],
        json!("true"),
        "annotation of the patch"
    );
    let approved =
        json!({"type": "Approved", "status": "True", "reason": "E2E", "message": "Set from an e2e test"});
    let updated = run
        .api
        .modify_at(&run.name, "approval", |o| {
            if let Some(all) = o["status"]["conditions"].as_array_mut() {
                all.push(approved.clone());
            }
        })
        .await?;
    anyhow::ensure!(has(&updated, "Approved"), "the approval is missing in {}", updated["status"]);
    Ok(())
}

async fn certificate(cx: &Context, run: &Run) -> Result<()> {
    let path = format!("{}/status", run.name);
    let seen = run.api.get(&path).await?;
    ensure_eq!(seen["metadata"]["name"], json!(run.name), "name in /status");
    let pem = STANDARD.encode(pki::Authority::new(cx.namespace())?.pem);
    let patch =
        json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "status": {"certificate": pem}});
    let patched = run.api.patch(&path, Patch::Merge(patch)).await?;
    ensure_eq!(text(&patched, "/status/certificate"), pem, "certificate of the patch");
    ensure_eq!(patched["metadata"]["annotations"]["patchedstatus"], json!("true"), "annotation of the patch");
    let added =
        json!({"type": "StatusUpdate", "status": "True", "reason": "E2E", "message": "Set from an e2e test"});
    let updated = run
        .api
        .modify_at(&run.name, "status", |o| {
            if let Some(all) = o["status"]["conditions"].as_array_mut() {
                all.push(added.clone());
            }
        })
        .await?;
    anyhow::ensure!(has(&updated, "StatusUpdate"), "the new condition is missing in {}", updated["status"]);
    ensure_eq!(text(&updated, "/status/certificate"), pem, "certificate after the update");
    Ok(())
}
