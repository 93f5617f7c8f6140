//! Deployment: rolls ReplicaSets from one pod template to the next.
//!
//! [`rollout`] holds the arithmetic, [`revision`] the annotations and history, [`status`] counts and conditions,
//! [`reconcile`] puts them together.

mod reconcile;
mod revision;
mod rollout;
mod status;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use knarr_client::{Event, Store, WorkQueue};
use kube::ResourceExt;

use crate::context::{Controller, Ctx, work};
use crate::error::Error;
use crate::pods::controller_of;
use crate::selector;

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "deployment-controller",
    account: "deployment-controller",
    start: |ctx| Box::pin(run(ctx)),
};

type Key = (String, String);

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let queue = WorkQueue::<Key>::new(ctx.shutdown.clone());
    let deployments = ctx.store::<Deployment>();
    let sets = ctx.store::<ReplicaSet>();
    {
        let queue = queue.clone();
        deployments.on_event(move |event| {
            let object = match event {
                Event::Applied { new, .. } => new,
                Event::Deleted(old) => old,
            };
            queue.add(key(&object.metadata));
        });
    }
    {
        let (queue, deployments) = (queue.clone(), deployments.clone());
        sets.on_event(move |event| follow_set(&queue, &deployments, event));
    }
    {
        // A Recreate rollout goes on when the last old pod is gone.
        let (queue, sets) = (queue.clone(), sets.clone());
        ctx.store::<Pod>().on_event(move |event| {
            if let Event::Deleted(pod) = event
                && let Some(owner) = controller_of(&pod.metadata).filter(|o| o.kind == "ReplicaSet")
                && let Some(set) =
                    sets.get(pod.metadata.namespace.as_deref().unwrap_or_default(), &owner.name)
                && let Some(owner) = deployment_of(&set.metadata)
            {
                queue.add((set.namespace().unwrap_or_default(), owner.name.clone()));
            }
        });
    }
    deployments.synced().await;
    sets.synced().await;
    ctx.store::<Pod>().synced().await;
    let rollouts = Arc::new(reconcile::Rollouts::new(ctx.clone(), deployments, sets));
    work(ctx, queue, 5, move |key| {
        let rollouts = rollouts.clone();
        async move { rollouts.reconcile(key).await }
    })
    .await;
    Ok(())
}

fn key(meta: &ObjectMeta) -> Key {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

fn deployment_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    controller_of(meta).filter(|o| o.kind == "Deployment" && o.api_version == "apps/v1")
}

fn follow_set(queue: &WorkQueue<Key>, deployments: &Store<Deployment>, event: &Event<ReplicaSet>) {
    let add = |set: &ReplicaSet, owner: &OwnerReference| {
        queue.add((set.namespace().unwrap_or_default(), owner.name.clone()));
    };
    let (set, old) = match event {
        Event::Applied { new, old } => (new, old.as_ref()),
        Event::Deleted(old) => (old, None),
    };
    if let Some(old) = old
        && let Some(owner) = deployment_of(&old.metadata)
        && controller_of(&set.metadata).is_none_or(|now| now.uid != owner.uid)
    {
        add(old, owner);
    }
    if let Some(owner) = deployment_of(&set.metadata) {
        add(set, owner);
    } else if controller_of(&set.metadata).is_none() {
        for deployment in deployments.list_ns(set.metadata.namespace.as_deref().unwrap_or_default()) {
            let wanted = &deployment.spec.selector;
            if !selector::is_empty(wanted) && selector::matches(wanted, set.metadata.labels.as_ref()) {
                queue.add(key(&deployment.metadata));
            }
        }
    }
}
