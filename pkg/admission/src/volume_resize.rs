//! PersistentVolumeClaimResize: a claim grows only where its class allows it.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::storage::v1::StorageClass;
use knarr_client::Store;
use knarr_machinery::{ApiError, meta};
use serde_json::Value;

use crate::Plugin;
use crate::limits::resource_list;
use crate::request::{Operation, Request};
use crate::state::Context;

/// The plugin.
pub(crate) struct PersistentVolumeClaimResize {
    classes: Arc<Store<StorageClass>>,
}

impl PersistentVolumeClaimResize {
    pub(crate) fn new(context: &Context) -> Self {
        Self { classes: context.informers.of() }
    }
}

fn grows(new: &Value, old: &Value) -> bool {
    let size = |c: &Value| resource_list(&c["spec"]["resources"]["requests"]).get("storage").cloned();
    matches!((size(new), size(old)), (Some(a), Some(b)) if a > b)
}

fn class_of(claim: &Value) -> &str {
    let annotated = meta::annotation(claim, "volume.beta.kubernetes.io/storage-class");
    annotated.or(claim["spec"]["storageClassName"].as_str()).unwrap_or_default()
}

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), ApiError> {
        let (new, old) = (request.new_object(), request.old_object());
        if !request.is_main("", "persistentvolumeclaims") || !grows(new, old) {
            return Ok(());
        }
        if old["status"]["phase"] != "Bound" {
            return Err(request.forbidden("Only bound persistent volume claims can be expanded"));
        }
        self.classes.synced().await;
        let class = self.classes.get("", class_of(new));
        if class.is_some_and(|c| c.allow_volume_expansion == Some(true)) {
            return Ok(());
        }
        Err(request.forbidden(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn growth() {
        let claim = |s: &str| json!({"spec": {"resources": {"requests": {"storage": s}}}});
        assert!(grows(&claim("2Gi"), &claim("1Gi")));
        assert!(!grows(&claim("1Gi"), &claim("1024Mi")));
        assert!(!grows(&claim("1Gi"), &json!({})));
    }
}
