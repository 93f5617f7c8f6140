//! Keeps an attributes class that is to be deleted while a claim or volume names it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use knarr_client::{Event, Store, WorkQueue};
use kube::ResourceExt;

use crate::context::{Action, Cached, Controller, Ctx, work};
use crate::error::Error;
use crate::protection::{Need, need, write};

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "volumeattributesclass-protection-controller",
    account: "volumeattributesclass-protection-controller",
    start: |ctx| Box::pin(run(ctx)),
};

const FINALIZER: &str = "kubernetes.io/vac-protection";

/// Classes that a claim has, wants or is on its way to.
fn of_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let status = claim.status.as_ref();
    let names = [
        claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.clone()),
        status.and_then(|s| s.current_volume_attributes_class_name.clone()),
        status.and_then(|s| s.modify_volume_status.as_ref()?.target_volume_attributes_class_name.clone()),
    ];
    names.into_iter().flatten().filter(|n| !n.is_empty()).collect()
}

/// The class of a volume.
fn of_volume(volume: &PersistentVolume) -> Vec<String> {
    let name = volume.spec.as_ref().and_then(|s| s.volume_attributes_class_name.clone());
    name.into_iter().filter(|n| !n.is_empty()).collect()
}

/// Queues the classes that an object no longer names.
fn follow<K: Cached>(store: &Arc<Store<K>>, queue: &WorkQueue<String>, names: fn(&K) -> Vec<String>) {
    let queue = queue.clone();
    store.on_event(move |event| {
        let (before, now) = match event {
            Event::Deleted(old) => (names(old), Vec::new()),
            Event::Applied { new, old: Some(old) } => (names(old), names(new)),
            Event::Applied { old: None, .. } => return,
        };
        for name in before.into_iter().filter(|n| !now.contains(n)) {
            queue.add(name);
        }
    });
}

struct Classes {
    ctx: Arc<Ctx>,
    classes: Arc<Store<VolumeAttributesClass>>,
    claims: Arc<Store<PersistentVolumeClaim>>,
    volumes: Arc<Store<PersistentVolume>>,
}

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let queue = WorkQueue::<String>::new(ctx.shutdown.clone());
    let all = Arc::new(Classes {
        ctx: ctx.clone(),
        classes: ctx.store(),
        claims: ctx.store(),
        volumes: ctx.store(),
    });
    follow(&all.claims, &queue, of_claim);
    follow(&all.volumes, &queue, of_volume);
    let target = queue.clone();
    all.classes.on_event(move |event| {
        if let Event::Applied { new, .. } = event
            && need(&new.metadata, FINALIZER).is_some()
        {
            target.add(new.name_any());
        }
    });
    all.classes.synced().await;
    all.claims.synced().await;
    all.volumes.synced().await;
    work(ctx, queue, 1, move |name| {
        let all = all.clone();
        async move { all.reconcile(&name).await }
    })
    .await;
    Ok(())
}

impl Classes {
    async fn reconcile(&self, name: &str) -> Result<Action, Error> {
        let Some(class) = self.classes.get("", name) else { return Ok(Action::Done) };
        let Some(need) = need(&class.metadata, FINALIZER) else { return Ok(Action::Done) };
        if need == Need::Add || !self.is_used(name) {
            write(&self.ctx.api_all(), "VolumeAttributesClass", class.as_ref(), need, FINALIZER).await?;
        }
        Ok(Action::Done)
    }

    fn is_used(&self, name: &str) -> bool {
        self.volumes.list().iter().any(|v| of_volume(v).iter().any(|n| n == name))
            || self.claims.list().iter().any(|c| of_claim(c).iter().any(|n| n == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names() {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "spec": {"volumeAttributesClassName": "wanted"},
            "status": {
                "currentVolumeAttributesClassName": "had",
                "modifyVolumeStatus": {"status": "Pending", "targetVolumeAttributesClassName": ""},
            },
        }))
        .unwrap();
        assert_eq!(of_claim(&claim), ["wanted", "had"]);
        let volume: PersistentVolume =
            serde_json::from_value(json!({"spec": {"volumeAttributesClassName": "gold"}})).unwrap();
        assert_eq!(of_volume(&volume), ["gold"]);
    }
}
