//! Job: runs pods to completion.
//!
//! [`account`] counts terminated pods exactly once by their finalizer, [`plan`] decides how many pods there should
//! be and whether the job has ended, [`indexes`] reads and writes index lists, [`reconcile`] puts them together.

mod account;
mod indexes;
mod plan;
mod reconcile;

use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use knarr_client::{Event, Store, WorkQueue};
use kube::ResourceExt;

use crate::context::{Controller, Ctx, work};
use crate::error::Error;
use crate::expectations::Expectations;
use crate::pods::controller_of;
use crate::selector;

/// Table row.
pub const CONTROLLER: Controller =
    Controller { name: "job-controller", account: "job-controller", start: |ctx| Box::pin(run(ctx)) };

/// Keeps a pod until it has been counted.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label with the index of an indexed job's pod.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";

type Key = (String, String);

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let queue = WorkQueue::<Key>::new(ctx.shutdown.clone());
    let jobs = ctx.store::<Job>();
    let expectations = Arc::new(Expectations::default());
    {
        let (queue, expectations) = (queue.clone(), expectations.clone());
        jobs.on_event(move |event| {
            let job = match event {
                Event::Applied { new, .. } => new,
                Event::Deleted(old) => {
                    expectations.drop_owner(old.metadata.uid.as_deref().unwrap_or_default());
                    old
                }
            };
            queue.add((job.namespace().unwrap_or_default(), job.name_any()));
        });
    }
    {
        let (queue, expectations, cached) = (queue.clone(), expectations.clone(), jobs.clone());
        ctx.store::<Pod>().on_event(move |event| {
            let (pod, fresh) = match event {
                Event::Applied { new, old } => (new, old.is_none()),
                Event::Deleted(old) => (old, false),
            };
            let namespace = pod.namespace().unwrap_or_default();
            if let Event::Applied { new, old: Some(old) } = event
                && let Some(lost) = job_of(old).filter(|o| job_of(new).is_none_or(|n| n.uid != o.uid))
            {
                queue.add((namespace.clone(), lost.name.clone()));
            }
            let Some(owner) = job_of(pod) else {
                if controller_of(&pod.metadata).is_none() && !matches!(event, Event::Deleted(_)) {
                    // An orphan may be a job's.
                    for job in wanting(&cached, pod) {
                        queue.add((namespace.clone(), job));
                    }
                }
                return;
            };
            if fresh {
                expectations.created(&owner.uid);
            }
            if matches!(event, Event::Deleted(_)) || pod.metadata.deletion_timestamp.is_some() {
                expectations.deleted(&owner.uid, pod.metadata.uid.as_deref().unwrap_or_default());
            }
            queue.add((pod.namespace().unwrap_or_default(), owner.name.clone()));
        });
    }
    jobs.synced().await;
    ctx.store::<Pod>().synced().await;
    let runner = Arc::new(reconcile::Runner::new(ctx.clone(), jobs, expectations));
    work(ctx, queue, 5, move |key| {
        let runner = runner.clone();
        async move { runner.reconcile(key).await }
    })
    .await;
    Ok(())
}

/// The job that controls the pod.
fn job_of(pod: &Pod) -> Option<&OwnerReference> {
    controller_of(&pod.metadata).filter(|o| o.kind == "Job" && o.api_version == "batch/v1")
}

/// Names of the jobs whose selector takes the pod.
fn wanting(jobs: &Store<Job>, pod: &Pod) -> Vec<String> {
    let takes = |job: &Job| {
        job.spec.as_ref().and_then(|s| s.selector.as_ref()).is_some_and(|wanted| {
            !selector::is_empty(wanted) && selector::matches(wanted, pod.metadata.labels.as_ref())
        })
    };
    let jobs = jobs.list_ns(pod.metadata.namespace.as_deref().unwrap_or_default());
    jobs.iter().filter(|j| takes(j)).map(|j| j.name_any()).collect()
}
