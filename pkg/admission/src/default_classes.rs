//! DefaultStorageClass and DefaultIngressClass: what names no class gets the one marked as default.

use std::cmp::Reverse;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::networking::v1::IngressClass;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_client::Store;
use knarr_machinery::{ApiError, meta};

use crate::Plugin;
use crate::request::{Operation, Request};
use crate::state::Context;

/// The name of the default among these: the newest of those that are marked, then by name.
fn default_of<'a>(all: impl Iterator<Item = &'a ObjectMeta>, annotation: &str, beta: &str) -> Option<String> {
    let marked = |m: &&ObjectMeta| {
        let is = |key: &str| m.annotations.as_ref().and_then(|a| a.get(key)).is_some_and(|v| v == "true");
        is(annotation) || (!beta.is_empty() && is(beta))
    };
    all.filter(marked)
        .min_by_key(|m| (Reverse(m.creation_timestamp.as_ref().map(|t| t.0)), m.name.clone()))
        .and_then(|m| m.name.clone())
}

/// Sets the storage class of claims.
pub(crate) struct DefaultStorageClass {
    classes: Arc<Store<StorageClass>>,
}

impl DefaultStorageClass {
    pub(crate) fn new(context: &Context) -> Self {
        Self { classes: context.informers.of() }
    }
}

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        let claim = request.new_object();
        let named = !claim["spec"]["storageClassName"].is_null()
            || meta::annotation(claim, "volume.beta.kubernetes.io/storage-class").is_some();
        if !request.is_main("", "persistentvolumeclaims") || named {
            return Ok(());
        }
        self.classes.synced().await;
        let all = self.classes.list();
        let default = default_of(
            all.iter().map(|c| &c.metadata),
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        );
        if let (Some(name), Some(claim)) = (default, request.object.as_mut()) {
            claim["spec"]["storageClassName"] = name.into();
        }
        Ok(())
    }
}

/// Sets the class of ingresses.
pub(crate) struct DefaultIngressClass {
    classes: Arc<Store<IngressClass>>,
}

impl DefaultIngressClass {
    pub(crate) fn new(context: &Context) -> Self {
        Self { classes: context.informers.of() }
    }
}

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        let ingress = request.new_object();
        let named = !ingress["spec"]["ingressClassName"].is_null()
            || meta::annotation(ingress, "kubernetes.io/ingress.class").is_some();
        if !request.is_main("networking.k8s.io", "ingresses") || named {
            return Ok(());
        }
        self.classes.synced().await;
        let all = self.classes.list();
        let default =
            default_of(all.iter().map(|c| &c.metadata), "ingressclass.kubernetes.io/is-default-class", "");
        if let (Some(name), Some(ingress)) = (default, request.object.as_mut()) {
            ingress["spec"]["ingressClassName"] = name.into();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn newest_default() {
        let class = |name: &str, at: &str, default: &str| -> ObjectMeta {
            serde_json::from_value(
                json!({"name": name, "creationTimestamp": at, "annotations": {"x": default}}),
            )
            .unwrap()
        };
        let all = [
            class("old", "2026-01-01T00:00:00Z", "true"),
            class("new-b", "2026-01-02T00:00:00Z", "true"),
            class("new-a", "2026-01-02T00:00:00Z", "true"),
            class("other", "2026-01-03T00:00:00Z", "false"),
        ];
        assert_eq!(default_of(all.iter(), "x", "").as_deref(), Some("new-a"));
        assert_eq!(default_of(all[3..].iter(), "x", ""), None);
    }
}
