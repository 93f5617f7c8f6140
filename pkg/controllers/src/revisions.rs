//! ControllerRevisions: the earlier templates of daemon sets and stateful sets.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use crate::claim::{Claimer, controller_ref};
use crate::context::Ctx;
use crate::error::{During, Error};
use crate::selector;
use crate::template::hash;

/// Label of pods that tells their revision.
pub const POD_LABEL: &str = "controller-revision-hash";

/// The owner of revisions.
pub struct Owner<'a> {
    /// Metadata.
    pub meta: &'a ObjectMeta,
    /// Kind; the API version is apps/v1.
    pub kind: &'static str,
    /// Which revisions fit.
    pub selector: &'a LabelSelector,
    /// The present template.
    pub template: &'a PodTemplateSpec,
    /// Collisions of the hash so far.
    pub collisions: Option<i32>,
    /// Label of revisions that carries the hash.
    pub hash_label: &'static str,
}

/// All revisions, oldest first, and the one of the present template.
#[derive(Debug, Clone)]
pub struct History {
    /// Oldest first; includes the present one.
    pub all: Vec<ControllerRevision>,
    /// The present one.
    pub current: ControllerRevision,
    /// A foreign revision has the name: the collision count must be raised and the sync tried again.
    pub collided: bool,
}

/// The revision's data: a patch that puts the template back, as `kubectl rollout undo` applies it.
fn data(template: &PodTemplateSpec) -> Result<serde_json::Value, Error> {
    let mut template =
        serde_json::to_value(template).map_err(|e| Error::Config(format!("template of a revision: {e}")))?;
    template["$patch"] = json!("replace");
    Ok(json!({"spec": {"template": template}}))
}

/// The hash that a revision carries.
pub fn hash_of(revision: &ControllerRevision, label: &str) -> String {
    revision.metadata.labels.as_ref().and_then(|l| l.get(label)).cloned().unwrap_or_default()
}

impl Owner<'_> {
    fn names(&self) -> (String, String) {
        (self.meta.namespace.clone().unwrap_or_default(), self.meta.name.clone().unwrap_or_default())
    }

    /// Claims the owner's revisions and finds or makes the present one.
    ///
    /// # Errors
    /// A failed request.
    pub async fn history<Fut>(&self, ctx: &Ctx, still_there: impl FnOnce() -> Fut) -> Result<History, Error>
    where
        Fut: Future<Output = Result<bool, Error>>,
    {
        let (namespace, name) = self.names();
        let api = ctx.api::<ControllerRevision>(&namespace);
        let candidates = ctx.store::<ControllerRevision>().list_ns(&namespace).into_iter().map(|r| {
            let fits = selector::matches(self.selector, r.metadata.labels.as_ref());
            (r, fits)
        });
        let claimer = Claimer {
            api: api.clone(),
            kind: "ControllerRevision",
            owner: self.meta,
            reference: controller_ref("apps/v1", self.kind, self.meta),
            finalizers: &[],
        };
        let owned = claimer.claim(candidates.collect(), still_there).await?;
        let mut all: Vec<_> = owned.iter().map(|r| ControllerRevision::clone(r)).collect();
        all.sort_by_key(|r| (r.revision.unwrap_or(0), r.metadata.name.clone()));
        let wanted = data(self.template)?;
        let next = all.last().map_or(0, |r| r.revision.unwrap_or(0)) + 1;
        if let Some(at) = all.iter().rposition(|r| r.data.0 == wanted) {
            let mut found = all.remove(at);
            if found.revision.unwrap_or(0) + 1 != next {
                found.revision = Some(next);
                let result = api.replace(&found.name_any(), &PostParams::default(), &found).await;
                found = result.during("update", "ControllerRevision", &namespace, &found.name_any())?;
            }
            all.push(found.clone());
            return Ok(History { all, current: found, collided: false });
        }
        let made = self.revision(wanted, next)?;
        let result = api.create(&PostParams::default(), &made).await;
        match result.during("create", "ControllerRevision", &namespace, &made.name_any()) {
            Ok(made) => {
                all.push(made.clone());
                Ok(History { all, current: made, collided: false })
            }
            Err(error) if error.is_already_exists() => {
                let live = api.get(&made.name_any()).await;
                let live = live.during("get", "ControllerRevision", &namespace, &name)?;
                let collided = live.data.0 != made.data.0;
                all.push(live.clone());
                Ok(History { all, current: live, collided })
            }
            Err(error) => Err(error),
        }
    }

    fn revision(&self, data: serde_json::Value, number: i64) -> Result<ControllerRevision, Error> {
        let (namespace, name) = self.names();
        let hash = hash(self.template, self.collisions)?;
        let mut labels = self.template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
        labels.insert(self.hash_label.to_owned(), hash.clone());
        Ok(ControllerRevision {
            metadata: ObjectMeta {
                name: Some(format!("{name}-{hash}")),
                namespace: Some(namespace),
                labels: Some(labels),
                annotations: self.meta.annotations.clone(),
                owner_references: Some(vec![controller_ref("apps/v1", self.kind, self.meta)]),
                ..ObjectMeta::default()
            },
            data: RawExtension(data),
            revision: Some(number),
        })
    }

    /// Deletes the oldest revisions that nothing uses, beyond the limit.
    ///
    /// # Errors
    /// A failed delete.
    pub async fn truncate(
        &self,
        ctx: &Ctx,
        history: &History,
        limit: i32,
        used: &HashSet<String>,
    ) -> Result<(), Error> {
        let (namespace, _) = self.names();
        let api = ctx.api::<ControllerRevision>(&namespace);
        for name in excess(history, limit, used) {
            let result = api.delete(&name, &DeleteParams::default()).await;
            match result.during("delete", "ControllerRevision", &namespace, &name) {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Names of revisions to delete; `used` are names that pods still have.
fn excess(history: &History, limit: i32, used: &HashSet<String>) -> Vec<String> {
    let current = history.current.name_any();
    let idle: Vec<String> = history
        .all
        .iter()
        .map(ResourceExt::name_any)
        .filter(|name| *name != current && !used.contains(name))
        .collect();
    let count = idle.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    idle.into_iter().take(count).collect()
}

/// Follows revisions: calls `add` with namespace and owner name.
pub fn follow(ctx: &Arc<Ctx>, kind: &'static str, add: impl Fn(String, String) + Send + Sync + 'static) {
    ctx.store::<ControllerRevision>().on_event(move |event| {
        let revision = match event {
            knarr_client::Event::Applied { new, .. } => new,
            knarr_client::Event::Deleted(old) => old,
        };
        if let Some(owner) = crate::pods::controller_of(&revision.metadata).filter(|o| o.kind == kind) {
            add(revision.namespace().unwrap_or_default(), owner.name.clone());
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_revisions_go_oldest_first() {
        let revision = |n: i64| ControllerRevision {
            metadata: ObjectMeta { name: Some(format!("r{n}")), ..ObjectMeta::default() },
            data: RawExtension(json!({})),
            revision: Some(n),
        };
        let history = History { all: (1..=5).map(revision).collect(), current: revision(5), collided: false };
        assert_eq!(excess(&history, 1, &HashSet::from(["r2".to_owned()])), ["r1", "r3"]);
        assert!(excess(&history, 10, &HashSet::new()).is_empty());
    }
}
