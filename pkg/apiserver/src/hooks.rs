//! What a write passes on its way: admission, and the allocation of service addresses.

use std::sync::Arc;

use async_trait::async_trait;
use knarr_kinds::Kind;
use knarr_machinery::ApiError;
use knarr_registry::{Admission, Hooks, Settle};
use serde_json::Value;

use crate::services::ServiceAllocator;

/// Joins the two.
pub(crate) struct WriteHooks {
    pub admission: Arc<dyn Hooks>,
    pub services: ServiceAllocator,
}

fn is_service(kind: &Kind) -> bool {
    kind.info.gvk.group.is_empty() && kind.info.plural == "services"
}

#[async_trait]
impl Hooks for WriteHooks {
    async fn mutate(&self, admission: &mut Admission<'_>) -> Result<(), ApiError> {
        self.admission.mutate(admission).await
    }

    async fn validate(&self, admission: &mut Admission<'_>) -> Result<(), ApiError> {
        self.admission.validate(admission).await
    }

    async fn allocate(&self, admission: &mut Admission<'_>) -> Result<Option<Settle>, ApiError> {
        if !is_service(admission.kind) || admission.subresource.is_some() {
            return Ok(None);
        }
        let Some(service) = &mut admission.object else { return Ok(None) };
        self.services.allocate(service, admission.old)
    }

    fn deleted(&self, kind: &Kind, object: &Value) {
        if is_service(kind) {
            self.services.release(object);
        }
        self.admission.deleted(kind, object);
    }
}
