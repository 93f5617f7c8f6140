//! Decides about one object and acts. The live object and live owners have the last word, not the graph.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use serde_json::json;

use super::Collector;
use super::graph::{FOREGROUND, Node, ORPHAN, Place, Uid, Work};
use crate::context::Action;
use crate::discovery::ServedResource;
use crate::error::{During, Error};

/// What an owner is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Exists.
    Solid,
    /// Does not exist.
    Dangling,
    /// Is being deleted and waits for its dependents.
    Waiting,
}

/// What to do about an object with owners.
#[derive(Debug, Clone, PartialEq)]
enum Verdict {
    Keep,
    /// Drop these owner references (uids).
    Trim(Vec<String>),
    Delete(PropagationPolicy),
}

/// The verdict over an object whose owners are in these states.
fn decide(owners: &[(OwnerReference, State)], meta: &ObjectMeta, has_dependents: bool) -> Verdict {
    let of = |state: State| owners.iter().filter(move |(_, s)| *s == state);
    if of(State::Solid).next().is_some() {
        let loose: Vec<_> =
            owners.iter().filter(|(_, s)| *s != State::Solid).map(|(o, _)| o.uid.clone()).collect();
        return if loose.is_empty() { Verdict::Keep } else { Verdict::Trim(loose) };
    }
    let has = |f: &str| meta.finalizers.iter().flatten().any(|x| x == f);
    if of(State::Waiting).next().is_some() && has_dependents {
        return Verdict::Delete(PropagationPolicy::Foreground);
    }
    Verdict::Delete(if has(ORPHAN) {
        PropagationPolicy::Orphan
    } else if has(FOREGROUND) {
        PropagationPolicy::Foreground
    } else {
        PropagationPolicy::Background
    })
}

struct Target {
    api: Api<DynamicObject>,
    kind: String,
    namespace: String,
    name: String,
}

impl Target {
    async fn meta(&self) -> Result<Option<ObjectMeta>, Error> {
        let found = self.api.get_metadata_opt(&self.name).await;
        Ok(found.during("get", &self.kind, &self.namespace, &self.name)?.map(|o| o.metadata))
    }

    /// Merges metadata; the object must not have changed since it was read.
    async fn patch(&self, seen: &ObjectMeta, mut meta: serde_json::Value) -> Result<(), Error> {
        meta["uid"] = json!(seen.uid);
        meta["resourceVersion"] = json!(seen.resource_version);
        let patch = Patch::Merge(json!({"metadata": meta}));
        let result = self.api.patch_metadata(&self.name, &PatchParams::default(), &patch).await;
        match result.during("patch", &self.kind, &self.namespace, &self.name) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    async fn drop_finalizer(&self, seen: &ObjectMeta, finalizer: &str) -> Result<(), Error> {
        let left: Vec<_> = seen.finalizers.iter().flatten().filter(|f| *f != finalizer).collect();
        if Some(left.len()) == seen.finalizers.as_ref().map(Vec::len) {
            return Ok(());
        }
        self.patch(seen, json!({"finalizers": left})).await
    }

    async fn drop_owners(&self, seen: &ObjectMeta, uids: &[String]) -> Result<(), Error> {
        let left: Vec<_> =
            seen.owner_references.iter().flatten().filter(|o| !uids.contains(&o.uid)).collect();
        if Some(left.len()) == seen.owner_references.as_ref().map(Vec::len) {
            return Ok(());
        }
        self.patch(seen, json!({"ownerReferences": left})).await
    }

    /// Takes back that the object blocks its owners' deletion; false when it blocks none.
    async fn unblock(&self, seen: &ObjectMeta) -> Result<bool, Error> {
        let mut owners = seen.owner_references.clone().unwrap_or_default();
        if !owners.iter().any(|o| o.block_owner_deletion == Some(true)) {
            return Ok(false);
        }
        owners.iter_mut().for_each(|o| o.block_owner_deletion = Some(false));
        self.patch(seen, json!({"ownerReferences": owners})).await?;
        Ok(true)
    }

    async fn delete(&self, seen: &ObjectMeta, policy: PropagationPolicy) -> Result<(), Error> {
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions {
                uid: seen.uid.clone(),
                resource_version: seen.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        match self.api.delete(&self.name, &params).await.during(
            "delete",
            &self.kind,
            &self.namespace,
            &self.name,
        ) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

impl Collector {
    /// Does one item of work.
    pub(super) async fn act(&self, work: Work) -> Result<Action, Error> {
        match work {
            Work::Judge(uid) => self.judge(&uid).await,
            Work::Orphan(uid) => self.orphan(&uid).await,
        }
    }

    fn node(&self, uid: &str) -> Option<Node> {
        self.graph.lock().get(uid).cloned()
    }

    fn target(&self, place: &Place) -> Option<Target> {
        let resource = self.resource(&place.api_version, &place.kind)?;
        Some(self.target_of(&resource, &place.namespace, &place.name))
    }

    fn target_of(&self, resource: &ServedResource, namespace: &str, name: &str) -> Target {
        let namespace = if resource.namespaced { namespace } else { "" };
        Target {
            api: self.ctx.api_dynamic(&resource.api, Some(namespace).filter(|n| !n.is_empty())),
            kind: resource.api.kind.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    async fn judge(&self, uid: &Uid) -> Result<Action, Error> {
        let Some(node) = self.node(uid) else { return Ok(Action::Done) };
        if node.deleting && !node.foreground {
            return Ok(Action::Done);
        }
        let Some(target) = self.target(&node.place) else {
            // A kind that is not served (yet): it may be served later, so nothing is decided.
            return Ok(Action::Backoff);
        };
        let live = target.meta().await?.filter(|m| m.uid.as_deref() == Some(uid));
        let Some(live) = live else {
            self.remove(uid);
            return Ok(Action::Done);
        };
        if node.foreground {
            return self.advance_foreground(uid, &target, &live).await;
        }
        let references = live.owner_references.clone().unwrap_or_default();
        if references.is_empty() {
            return Ok(Action::Done);
        }
        let mut owners = Vec::with_capacity(references.len());
        for reference in references {
            match self.state_of(&reference, &node.place.namespace).await? {
                Some(state) => owners.push((reference, state)),
                None => return Ok(Action::Backoff),
            }
        }
        match decide(&owners, &live, !node.dependents.is_empty()) {
            Verdict::Keep => {}
            Verdict::Trim(uids) => target.drop_owners(&live, &uids).await?,
            Verdict::Delete(policy) => {
                let waits = owners.iter().any(|(_, s)| *s == State::Waiting);
                if waits && self.graph.lock().has_waiting_dependent(uid) && target.unblock(&live).await? {
                    // It comes back changed: in a circle of owners one must not hold its owner back.
                    return Ok(Action::Backoff);
                }
                target.delete(&live, policy).await?;
            }
        }
        Ok(Action::Done)
    }

    /// The state of an owner; `None` when its kind is not known here, so that nobody can tell.
    async fn state_of(&self, owner: &OwnerReference, namespace: &str) -> Result<Option<State>, Error> {
        if self.absent.lock().contains(&owner.uid) {
            return Ok(Some(State::Dangling));
        }
        let Some(resource) = self.resource(&owner.api_version, &owner.kind) else { return Ok(None) };
        if resource.namespaced && namespace.is_empty() {
            // A cluster-scoped object cannot be owned by a namespaced one; it is left alone.
            return Ok(Some(State::Solid));
        }
        let expected = if resource.namespaced { namespace } else { "" };
        if let Some(node) = self.node(&owner.uid)
            && node.observed
            && node.place.name == owner.name
            && *node.place.kind == *owner.kind
            && node.place.namespace == expected
        {
            return Ok(Some(if node.foreground { State::Waiting } else { State::Solid }));
        }
        let live = self.target_of(&resource, namespace, &owner.name).meta().await?;
        Ok(Some(match live.filter(|m| m.uid.as_deref() == Some(owner.uid.as_str())) {
            None => {
                self.absent.lock().insert(&owner.uid);
                State::Dangling
            }
            Some(meta) => {
                let waits = meta.deletion_timestamp.is_some()
                    && meta.finalizers.iter().flatten().any(|f| f == FOREGROUND);
                if waits { State::Waiting } else { State::Solid }
            }
        }))
    }

    async fn advance_foreground(
        &self,
        uid: &Uid,
        target: &Target,
        live: &ObjectMeta,
    ) -> Result<Action, Error> {
        let blockers = self.graph.lock().blockers(uid);
        if blockers.is_empty() {
            target.drop_finalizer(live, FOREGROUND).await?;
            return Ok(Action::Done);
        }
        for (dependent, waits) in blockers {
            if !waits {
                self.queue.add(Work::Judge(dependent));
            }
        }
        Ok(Action::Done)
    }

    async fn orphan(&self, uid: &Uid) -> Result<Action, Error> {
        let Some(node) = self.node(uid) else { return Ok(Action::Done) };
        let mut errors = Vec::new();
        for dependent in node.dependents.iter().filter_map(|d| self.node(d)) {
            let Some(target) = self.target(&dependent.place) else { continue };
            let free = async {
                match target.meta().await? {
                    Some(live) => target.drop_owners(&live, &[uid.to_string()]).await,
                    None => Ok(()),
                }
            };
            if let Err(error) = free.await {
                errors.push(error);
            }
        }
        Error::join(errors)?;
        let Some(target) = self.target(&node.place) else { return Ok(Action::Backoff) };
        if let Some(live) = target.meta().await?.filter(|m| m.uid.as_deref() == Some(&**uid)) {
            target.drop_finalizer(&live, ORPHAN).await?;
        }
        Ok(Action::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let owner = |uid: &str| OwnerReference { uid: uid.into(), ..OwnerReference::default() };
        let plain = ObjectMeta::default();
        let orphaning = ObjectMeta { finalizers: Some(vec![ORPHAN.into()]), ..ObjectMeta::default() };
        use State::{Dangling, Solid, Waiting};
        let check = |states: &[State], meta: &ObjectMeta, dependents: bool, expected: Verdict| {
            let owners: Vec<_> =
                states.iter().enumerate().map(|(i, s)| (owner(&i.to_string()), *s)).collect();
            assert_eq!(decide(&owners, meta, dependents), expected, "{states:?}");
        };
        check(&[Solid], &plain, false, Verdict::Keep);
        check(&[Solid, Dangling, Waiting], &plain, false, Verdict::Trim(vec!["1".into(), "2".into()]));
        check(&[Dangling], &plain, true, Verdict::Delete(PropagationPolicy::Background));
        check(&[Waiting], &plain, true, Verdict::Delete(PropagationPolicy::Foreground));
        check(&[Waiting], &plain, false, Verdict::Delete(PropagationPolicy::Background));
        check(&[Dangling], &orphaning, true, Verdict::Delete(PropagationPolicy::Orphan));
    }
}
