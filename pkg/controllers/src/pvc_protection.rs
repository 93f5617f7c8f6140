//! Keeps a claim that is to be deleted until no pod uses it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use knarr_client::{Event, Store, WorkQueue};
use kube::ResourceExt;
use kube::api::ListParams;

use crate::context::{Action, Controller, Ctx, work};
use crate::error::{During, Error};
use crate::pods;
use crate::protection::{Need, need, write};

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "persistentvolumeclaim-protection-controller",
    account: "pvc-protection-controller",
    start: |ctx| Box::pin(run(ctx)),
};

const FINALIZER: &str = "kubernetes.io/pvc-protection";

/// Claims that a pod names, by name; those of ephemeral volumes are named after pod and volume.
fn claims(pod: &Pod) -> impl Iterator<Item = (String, bool)> + '_ {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_ref());
    volumes.into_iter().flatten().filter_map(|volume| {
        if let Some(claim) = &volume.persistent_volume_claim {
            return Some((claim.claim_name.clone(), false));
        }
        volume.ephemeral.as_ref().map(|_| (format!("{}-{}", pod.name_any(), volume.name), true))
    })
}

/// Whether the kubelet is done with the pod, so that only other finalizers keep it.
fn is_shut_down(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && pod.metadata.deletion_grace_period_seconds == Some(0)
}

/// Whether a pod uses the claim. A pod without a node does not: no kubelet starts one whose claim is going.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    pods::node_name(pod).is_some_and(|n| !n.is_empty())
        && claims(pod).any(|(name, ephemeral)| {
            let own =
                || pods::controller_of(&claim.metadata).is_some_and(|o| Some(&o.uid) == pod.uid().as_ref());
            name == claim.name_any() && (!ephemeral || (!is_shut_down(pod) && own()))
        })
}

type Key = (String, String);

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let queue = WorkQueue::<Key>::new(ctx.shutdown.clone());
    let (store, pods) = (ctx.store::<PersistentVolumeClaim>(), ctx.store::<Pod>());
    let target = queue.clone();
    store.on_event(move |event| {
        if let Event::Applied { new, .. } = event
            && need(&new.metadata, FINALIZER).is_some()
        {
            target.add((new.namespace().unwrap_or_default(), new.name_any()));
        }
    });
    let target = queue.clone();
    pods.on_event(move |event| {
        let gone = match event {
            Event::Deleted(old) => Some(old),
            // A pod of the same name took its place.
            Event::Applied { new, old: Some(old) } if new.metadata.uid != old.metadata.uid => Some(old),
            Event::Applied { new, .. } if is_shut_down(new) => Some(new),
            Event::Applied { .. } => None,
        };
        for (name, _) in gone.into_iter().flat_map(|pod| claims(pod)) {
            target.add((gone.and_then(|p| p.namespace()).unwrap_or_default(), name));
        }
    });
    store.synced().await;
    pods.synced().await;
    let run = ctx.clone();
    work(ctx, queue, 2, move |key| {
        let (ctx, store) = (run.clone(), store.clone());
        async move { reconcile(&ctx, &store, &key.0, &key.1).await }
    })
    .await;
    Ok(())
}

async fn reconcile(
    ctx: &Ctx,
    store: &Store<PersistentVolumeClaim>,
    namespace: &str,
    name: &str,
) -> Result<Action, Error> {
    let Some(claim) = store.get(namespace, name) else { return Ok(Action::Done) };
    let Some(need) = need(&claim.metadata, FINALIZER) else { return Ok(Action::Done) };
    if need == Need::RemoveIfUnused && is_used(ctx, &claim, namespace).await? {
        // The pod's end brings us back.
        return Ok(Action::Done);
    }
    let api = ctx.api::<PersistentVolumeClaim>(namespace);
    write(&api, "PersistentVolumeClaim", claim.as_ref(), need, FINALIZER).await?;
    Ok(Action::Done)
}

/// Asks the cache first, and the API server before the claim is let go: a new pod may not have been seen.
async fn is_used(ctx: &Ctx, claim: &PersistentVolumeClaim, namespace: &str) -> Result<bool, Error> {
    if ctx.store::<Pod>().list_ns(namespace).iter().any(|pod| uses(pod, claim)) {
        return Ok(true);
    }
    let pods = ctx.api::<Pod>(namespace).list(&ListParams::default()).await;
    Ok(pods.during("list", "Pod", namespace, "")?.items.iter().any(|pod| uses(pod, claim)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::pod;
    use serde_json::{Value, json};

    #[test]
    fn users_of_a_claim() {
        let claim = |name: &str, owner: Value| {
            serde_json::from_value::<PersistentVolumeClaim>(json!({
                "metadata": {"name": name, "namespace": "n", "ownerReferences": owner},
            }))
            .unwrap()
        };
        let with = |meta: Value, node: &str, volume: Value| {
            let mut meta = meta;
            meta["name"] = json!("p");
            meta["uid"] = json!("u");
            pod(json!({"metadata": meta, "spec": {"nodeName": node, "containers": [], "volumes": [volume]}}))
        };
        let named = || json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
        let own = || json!({"name": "v", "ephemeral": {}});
        let owner =
            || json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]);
        let ended = || json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0});
        assert!(uses(&with(json!({}), "node", named()), &claim("c", json!([]))));
        assert!(uses(&with(ended(), "node", named()), &claim("c", json!([]))));
        assert!(!uses(&with(json!({}), "", named()), &claim("c", json!([]))));
        assert!(!uses(&with(json!({}), "node", named()), &claim("d", json!([]))));
        assert!(uses(&with(json!({}), "node", own()), &claim("p-v", owner())));
        assert!(!uses(&with(json!({}), "node", own()), &claim("p-v", json!([]))));
        assert!(!uses(&with(ended(), "node", own()), &claim("p-v", owner())));
    }
}
