//! Deletes certificate requests that are over: decided ones after an hour, pending ones after a day, and those whose
//! certificate has expired.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::jiff::Timestamp;
use knarr_client::Store;
use kube::api::DeleteParams;

use crate::context::{Action, Controller, Ctx, work};
use crate::csr;
use crate::error::{During, Error};

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "certificatesigningrequest-cleaner-controller",
    account: "certificate-controller",
    start: |ctx| Box::pin(run(ctx)),
};

const DECIDED_SECONDS: i64 = 3600;
const PENDING_SECONDS: i64 = 24 * 3600;

/// How long the request may stay.
fn left(object: &CertificateSigningRequest, now: Timestamp) -> Duration {
    let created = object.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
    let since = |kind: &str| {
        let condition = csr::condition(object, kind)?;
        condition.last_update_time.as_ref().or(condition.last_transition_time.as_ref()).map(|t| t.0)
    };
    // Approved requests stay while their signer may still be at work.
    let decided = ["Denied", "Failed"]
        .iter()
        .find_map(|kind| since(kind))
        .or_else(|| since("Approved").filter(|_| csr::issued(object)));
    let end = match decided {
        Some(at) => at.as_second() + DECIDED_SECONDS,
        None => created.as_second() + PENDING_SECONDS,
    };
    Duration::from_secs(u64::try_from(end - now.as_second()).unwrap_or(0))
}

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let (requests, queue) = csr::followed(&ctx).await;
    let run = ctx.clone();
    work(ctx, queue, 1, move |name| {
        let (ctx, requests) = (run.clone(), requests.clone());
        async move { reconcile(&ctx, &requests, &name).await }
    })
    .await;
    Ok(())
}

async fn reconcile(
    ctx: &Ctx,
    requests: &Store<CertificateSigningRequest>,
    name: &str,
) -> Result<Action, Error> {
    let Some(object) = requests.get("", name) else { return Ok(Action::Done) };
    let left = left(&object, Timestamp::now());
    if !left.is_zero() {
        return Ok(Action::After(left));
    }
    let api = ctx.api_all::<CertificateSigningRequest>();
    let gone = api.delete(name, &DeleteParams::default()).await;
    match gone.during("delete", "CertificateSigningRequest", "", name) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(Action::Done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn time_left() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let request = |created: &str, kind: &str, at: &str, certificate: &str| {
            let conditions = match kind {
                "" => json!([]),
                kind => json!([{"type": kind, "status": "True", "lastUpdateTime": at}]),
            };
            serde_json::from_value::<CertificateSigningRequest>(json!({
                "metadata": {"name": "x", "creationTimestamp": created},
                "spec": {"request": "", "signerName": "a.b/c"},
                "status": {"conditions": conditions, "certificate": certificate},
            }))
            .unwrap()
        };
        for (created, kind, at, certificate, want) in [
            ("2026-01-01T12:00:00Z", "", "", "", 12 * 3600),
            ("2025-12-30T00:00:00Z", "", "", "", 0),
            ("2026-01-01T00:00:00Z", "Denied", "2026-01-01T23:30:00Z", "", 1800),
            ("2026-01-01T00:00:00Z", "Approved", "2026-01-01T22:00:00Z", "eA==", 0),
            ("2026-01-01T23:00:00Z", "Approved", "2026-01-01T23:00:00Z", "", 23 * 3600),
        ] {
            let got = left(&request(created, kind, at, certificate), now).as_secs();
            assert_eq!(got, want, "{created} {kind}");
        }
    }
}
