//! Adoption and release: which objects a controller owns.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, Patch, PatchParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::{During, Error};
use crate::pods::controller_of;

/// What to do about one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It is ours.
    Keep,
    /// It has no owner and fits: make it ours.
    Adopt,
    /// It is ours and fits no longer: let it go.
    Release,
    /// Not ours.
    Ignore,
}

/// Decides about one object. `fits` tells whether the owner's selector matches it.
pub fn decide(owner_uid: &str, owner_deleting: bool, object: &ObjectMeta, fits: bool) -> Claim {
    match controller_of(object) {
        Some(owner) if owner.uid != owner_uid => Claim::Ignore,
        Some(_) if fits => Claim::Keep,
        Some(_) if owner_deleting => Claim::Ignore,
        Some(_) => Claim::Release,
        None if owner_deleting || !fits || object.deletion_timestamp.is_some() => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// The reference by which a controller owns an object.
pub fn controller_ref(api_version: &str, kind: &str, owner: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name: owner.name.clone().unwrap_or_default(),
        uid: owner.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// One owner that claims objects of one kind.
pub struct Claimer<'a, K> {
    /// API of the claimed kind, in the owner's namespace.
    pub api: Api<K>,
    /// Kind of the claimed objects, for errors.
    pub kind: &'static str,
    /// Metadata of the owner.
    pub owner: &'a ObjectMeta,
    /// The reference that is set on adoption.
    pub reference: OwnerReference,
    /// Finalizers set on adoption and dropped on release.
    pub finalizers: &'a [&'a str],
}

impl<K> Claimer<'_, K>
where
    K: kube::Resource + Clone + DeserializeOwned + Debug,
{
    /// Carries out the claims and returns what is owned. `still_there` asks the server whether the owner lives
    /// and is not being deleted; it is asked once and only before the first adoption.
    ///
    /// # Errors
    /// Failed patches, joined; an object that is gone or has changed hands is no error.
    pub async fn claim<Fut>(
        &self,
        candidates: Vec<(Arc<K>, bool)>,
        still_there: impl FnOnce() -> Fut,
    ) -> Result<Vec<Arc<K>>, Error>
    where
        Fut: Future<Output = Result<bool, Error>>,
    {
        let uid = self.owner.uid.as_deref().unwrap_or_default();
        let deleting = self.owner.deletion_timestamp.is_some();
        let (mut owned, mut adopt, mut errors) =
            (Vec::with_capacity(candidates.len()), Vec::new(), Vec::new());
        for (object, fits) in candidates {
            match decide(uid, deleting, object.meta(), fits) {
                Claim::Keep => owned.push(object),
                Claim::Ignore => {}
                Claim::Adopt => adopt.push(object),
                Claim::Release => {
                    if let Err(error) = self.patch(&object, self.release_patch(&object)).await
                        && !error.is_not_found()
                        && !error.is_invalid()
                    {
                        errors.push(error);
                    }
                }
            }
        }
        if !adopt.is_empty() && still_there().await? {
            for object in adopt {
                match self.patch(&object, self.adopt_patch(&object)).await {
                    Ok(adopted) => owned.push(Arc::new(adopted)),
                    Err(error) if error.is_not_found() => {}
                    Err(error) => errors.push(error),
                }
            }
        }
        Error::join(errors)?;
        Ok(owned)
    }

    fn adopt_patch(&self, object: &K) -> Value {
        let mut meta = json!({"uid": object.meta().uid, "ownerReferences": [self.reference]});
        if !self.finalizers.is_empty() {
            meta["finalizers"] = json!(self.finalizers);
        }
        json!({"metadata": meta})
    }

    fn release_patch(&self, object: &K) -> Value {
        let mut meta = json!({
            "uid": object.meta().uid,
            "ownerReferences": [{"$patch": "delete", "uid": self.reference.uid}],
        });
        if !self.finalizers.is_empty() {
            meta["$deleteFromPrimitiveList/finalizers"] = json!(self.finalizers);
        }
        json!({"metadata": meta})
    }

    async fn patch(&self, object: &K, patch: Value) -> Result<K, Error> {
        let meta = object.meta();
        let name = meta.name.as_deref().unwrap_or_default();
        self.api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await.during(
            "patch",
            self.kind,
            meta.namespace.as_deref().unwrap_or_default(),
            name,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims() {
        let meta = |owner: Option<&str>, deleting: bool| {
            let mut value = json!({});
            if let Some(uid) = owner {
                value["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "X", "name": "x", "uid": uid, "controller": true}]);
            }
            if deleting {
                value["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            serde_json::from_value::<ObjectMeta>(value).unwrap()
        };
        // (owner of the object, object deleting, we are deleting, fits) -> claim
        let table = [
            (Some("me"), false, false, true, Claim::Keep),
            (Some("me"), true, true, true, Claim::Keep),
            (Some("me"), false, false, false, Claim::Release),
            (Some("me"), false, true, false, Claim::Ignore),
            (Some("you"), false, false, true, Claim::Ignore),
            (None, false, false, true, Claim::Adopt),
            (None, true, false, true, Claim::Ignore),
            (None, false, true, true, Claim::Ignore),
            (None, false, false, false, Claim::Ignore),
        ];
        for (owner, object_deleting, deleting, fits, expected) in table {
            let got = decide("me", deleting, &meta(owner, object_deleting), fits);
            assert_eq!(got, expected, "{owner:?} {object_deleting} {deleting} {fits}");
        }
    }
}
