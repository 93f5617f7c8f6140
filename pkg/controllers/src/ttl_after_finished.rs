//! Deletes finished jobs after `ttlSecondsAfterFinished`.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::jiff::Timestamp;
use knarr_client::{Event, WorkQueue};
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions, PropagationPolicy};

use crate::context::{Action, Controller, Ctx, work};
use crate::error::{During, Error};

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "ttl-after-finished-controller",
    account: "ttl-after-finished-controller",
    start: |ctx| Box::pin(run(ctx)),
};

/// How long the job may stay: `None` when it is not meant to go.
fn decide(job: &Job, now: Timestamp) -> Option<Duration> {
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let ttl = i64::from(job.spec.as_ref()?.ttl_seconds_after_finished?);
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let end = conditions
        .iter()
        .find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")?;
    let since = end.last_transition_time.as_ref()?.0;
    let left = since.as_millisecond() + ttl * 1000 - now.as_millisecond();
    Some(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
}

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let queue = WorkQueue::<(String, String)>::new(ctx.shutdown.clone());
    let jobs = ctx.store::<Job>();
    {
        let queue = queue.clone();
        jobs.on_event(move |event| {
            if let Event::Applied { new, .. } = event
                && let Some(left) = decide(new, Timestamp::now())
            {
                queue.add_after((new.namespace().unwrap_or_default(), new.name_any()), left);
            }
        });
    }
    let run = ctx.clone();
    work(ctx, queue, 2, move |key| {
        let ctx = run.clone();
        async move { reconcile(&ctx, &key.0, &key.1).await }
    })
    .await;
    Ok(())
}

async fn reconcile(ctx: &Ctx, namespace: &str, name: &str) -> Result<Action, Error> {
    // The live object decides: the TTL may have been raised a moment ago.
    let api = ctx.api::<Job>(namespace);
    let Some(job) = api.get_opt(name).await.during("get", "Job", namespace, name)? else {
        return Ok(Action::Done);
    };
    match decide(&job, Timestamp::now()) {
        None => Ok(Action::Done),
        Some(left) if !left.is_zero() => Ok(Action::After(left)),
        Some(_) => {
            let params = DeleteParams {
                propagation_policy: Some(PropagationPolicy::Foreground),
                preconditions: Some(Preconditions {
                    uid: job.uid(),
                    resource_version: job.metadata.resource_version.clone(),
                }),
                ..DeleteParams::default()
            };
            match api.delete(name, &params).await.during("delete", "Job", namespace, name) {
                Err(error) if !error.is_not_found() => Err(error),
                _ => Ok(Action::Done),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn time_left() {
        let job = |ttl: Option<i32>, end: &str| {
            serde_json::from_value::<Job>(json!({
                "metadata": {"name": "j"},
                "spec": {"ttlSecondsAfterFinished": ttl, "template": {}},
                "status": {"conditions": [{"type": end, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
            }))
            .unwrap()
        };
        let at = |s: &str| s.parse::<Timestamp>().unwrap();
        assert_eq!(
            decide(&job(Some(10), "Complete"), at("2026-01-01T00:00:04Z")),
            Some(Duration::from_secs(6))
        );
        assert_eq!(decide(&job(Some(10), "Failed"), at("2026-01-01T00:01:00Z")), Some(Duration::ZERO));
        assert_eq!(decide(&job(None, "Complete"), at("2026-01-01T00:01:00Z")), None);
        assert_eq!(decide(&job(Some(10), "Suspended"), at("2026-01-01T00:01:00Z")), None);
    }
}
