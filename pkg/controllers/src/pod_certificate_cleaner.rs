//! Deletes PodCertificateRequests a quarter of an hour after they were made: by then they are answered, or nobody will.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::certificates::v1::PodCertificateRequest;
use k8s_openapi::jiff::Timestamp;
use knarr_client::{Event, Key, Store, WorkQueue};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Preconditions};

use crate::context::{Action, Controller, Ctx, work};
use crate::error::{During, Error};

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "podcertificaterequest-cleaner-controller",
    account: "podcertificaterequestcleaner",
    start: |ctx| Box::pin(run(ctx)),
};

const LIFE_SECONDS: i64 = 15 * 60;

/// How long the request may stay.
fn left(request: &PodCertificateRequest, now: Timestamp) -> Duration {
    let created = request.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
    let seconds = created.as_second() + LIFE_SECONDS - now.as_second();
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let queue = WorkQueue::<Key>::new(ctx.shutdown.clone());
    let requests = ctx.store::<PodCertificateRequest>();
    {
        let queue = queue.clone();
        requests.on_event(move |event| {
            if let Event::Applied { new, old: None } = event {
                queue.add((new.namespace().unwrap_or_default(), new.name_any()));
            }
        });
    }
    requests.synced().await;
    let run = ctx.clone();
    work(ctx, queue, 1, move |key| {
        let (ctx, requests) = (run.clone(), requests.clone());
        async move { reconcile(&ctx, &requests, &key).await }
    })
    .await;
    Ok(())
}

async fn reconcile(ctx: &Ctx, requests: &Store<PodCertificateRequest>, key: &Key) -> Result<Action, Error> {
    let (namespace, name) = key;
    let Some(request) = requests.get(namespace, name) else { return Ok(Action::Done) };
    let left = left(&request, Timestamp::now());
    if !left.is_zero() {
        return Ok(Action::After(left));
    }
    let this = Preconditions { uid: request.metadata.uid.clone(), resource_version: None };
    let parameters = DeleteParams { preconditions: Some(this), ..DeleteParams::default() };
    let gone = ctx.api::<PodCertificateRequest>(namespace).delete(name, &parameters).await;
    match gone.during("delete", "PodCertificateRequest", namespace, name) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(Action::Done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_quarter_of_an_hour() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let spec = json!({"nodeName": "n", "nodeUID": "u", "podName": "p", "podUID": "u", "serviceAccountName": "s", "serviceAccountUID": "u", "signerName": "a/b", "stubPKCS10Request": ""});
        for (created, want) in
            [("2026-01-01T23:50:00Z", 300), ("2026-01-01T23:45:00Z", 0), ("2026-01-01T00:00:00Z", 0)]
        {
            let request = json!({"metadata": {"name": "x", "creationTimestamp": created}, "spec": spec});
            assert_eq!(left(&serde_json::from_value(request).unwrap(), now).as_secs(), want, "{created}");
        }
    }
}
