//! Finalizers that keep storage objects while they are in use: one rule for claims, volumes and attribute classes.

use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{During, Error};

/// What an object's finalizer needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The object lives and lacks it.
    Add,
    /// The object is to go; the finalizer goes when nothing uses it.
    RemoveIfUnused,
}

/// What is to be done about the finalizer, None if nothing.
pub fn need(meta: &ObjectMeta, finalizer: &str) -> Option<Need> {
    let has = meta.finalizers.iter().flatten().any(|f| f == finalizer);
    match (meta.deletion_timestamp.is_some(), has) {
        (false, false) => Some(Need::Add),
        (true, true) => Some(Need::RemoveIfUnused),
        _ => None,
    }
}

/// Adds or removes the finalizer, and writes the object if nothing else changed it meanwhile.
///
/// # Errors
/// The update is refused; an object that is gone is none.
pub async fn write<K>(api: &Api<K>, kind: &str, object: &K, need: Need, finalizer: &str) -> Result<(), Error>
where
    K: Resource + Clone + Debug + DeserializeOwned + Serialize,
{
    let mut next = object.clone();
    let finalizers = next.meta_mut().finalizers.get_or_insert_default();
    match need {
        Need::Add => finalizers.push(finalizer.to_owned()),
        Need::RemoveIfUnused => finalizers.retain(|f| f != finalizer),
    }
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    match api.replace(&name, &PostParams::default(), &next).await.during("update", kind, &namespace, &name) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn needs() {
        let of = |meta: Value| need(&serde_json::from_value(meta).unwrap(), "a/b");
        let gone = "2026-01-01T00:00:00Z";
        assert_eq!(of(json!({})), Some(Need::Add));
        assert_eq!(of(json!({"finalizers": ["a/b"]})), None);
        assert_eq!(
            of(json!({"finalizers": ["x/y", "a/b"], "deletionTimestamp": gone})),
            Some(Need::RemoveIfUnused)
        );
        assert_eq!(of(json!({"finalizers": ["x/y"], "deletionTimestamp": gone})), None);
    }
}
