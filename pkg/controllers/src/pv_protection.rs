//! Keeps a volume that is to be deleted while it is bound.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PersistentVolume;
use knarr_client::{Event, Store, WorkQueue};
use kube::ResourceExt;

use crate::context::{Action, Controller, Ctx, work};
use crate::error::Error;
use crate::protection::{Need, need, write};

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "persistentvolume-protection-controller",
    account: "pv-protection-controller",
    start: |ctx| Box::pin(run(ctx)),
};

const FINALIZER: &str = "kubernetes.io/pv-protection";

fn is_bound(volume: &PersistentVolume) -> bool {
    volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound")
}

/// What is to be done now about the finalizer.
fn decide(volume: &PersistentVolume) -> Option<Need> {
    need(&volume.metadata, FINALIZER).filter(|need| *need == Need::Add || !is_bound(volume))
}

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let queue = WorkQueue::<String>::new(ctx.shutdown.clone());
    let store = ctx.store::<PersistentVolume>();
    let target = queue.clone();
    store.on_event(move |event| {
        if let Event::Applied { new, .. } = event
            && decide(new).is_some()
        {
            target.add(new.name_any());
        }
    });
    store.synced().await;
    let run = ctx.clone();
    work(ctx, queue, 1, move |name| {
        let (ctx, store) = (run.clone(), store.clone());
        async move { reconcile(&ctx, &store, &name).await }
    })
    .await;
    Ok(())
}

async fn reconcile(ctx: &Ctx, store: &Store<PersistentVolume>, name: &str) -> Result<Action, Error> {
    let Some(volume) = store.get("", name) else { return Ok(Action::Done) };
    if let Some(need) = decide(&volume) {
        write(&ctx.api_all(), "PersistentVolume", volume.as_ref(), need, FINALIZER).await?;
    }
    Ok(Action::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bound_volumes_stay() {
        let volume = |deleted: bool, phase: &str| {
            let time = deleted.then_some("2026-01-01T00:00:00Z");
            serde_json::from_value::<PersistentVolume>(json!({
                "metadata": {"name": "v", "finalizers": [FINALIZER], "deletionTimestamp": time},
                "status": {"phase": phase},
            }))
            .unwrap()
        };
        assert_eq!(decide(&volume(false, "Available")), None);
        assert_eq!(decide(&volume(true, "Bound")), None);
        for phase in ["Pending", "Available", "Released", "Failed"] {
            assert_eq!(decide(&volume(true, phase)), Some(Need::RemoveIfUnused), "{phase}");
        }
    }
}
