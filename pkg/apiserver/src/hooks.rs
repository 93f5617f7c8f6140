//! What a write passes on its way: admission, and the allocation of service addresses.

use std::sync::Arc;

use async_trait::async_trait;
use knarr_auth::{Authorizer, Rbac, escalation};
use knarr_kinds::Kind;
use knarr_machinery::ApiError;
use knarr_registry::{Admission, Hooks, Settle};
use parking_lot::Mutex;
use serde_json::Value;

use crate::services::ServiceAllocator;

/// Joins the two.
pub(crate) struct WriteHooks {
    pub admission: Arc<dyn Hooks>,
    pub services: ServiceAllocator,
    pub authorizer: Arc<dyn Authorizer>,
    pub rbac: Option<Arc<Rbac>>,
    /// Warnings of a write that was refused: the client sees them beside the refusal.
    pub refused: Mutex<Vec<String>>,
}

fn is_service(kind: &Kind) -> bool {
    kind.info.gvk.group.is_empty() && kind.info.plural == "services"
}

#[async_trait]
impl Hooks for WriteHooks {
    async fn mutate(&self, admission: &mut Admission<'_>) -> Result<(), ApiError> {
        let outcome = self.admission.mutate(admission).await;
        self.note(admission, outcome)
    }

    async fn validate(&self, admission: &mut Admission<'_>) -> Result<(), ApiError> {
        self.check_escalation(admission).await?;
        let outcome = self.admission.validate(admission).await;
        self.note(admission, outcome)
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

impl WriteHooks {
    fn note(&self, admission: &mut Admission<'_>, outcome: Result<(), ApiError>) -> Result<(), ApiError> {
        if outcome.is_err() {
            self.refused.lock().append(&mut admission.warnings);
        }
        outcome
    }

    /// Nobody grants by roles and bindings what they do not have.
    async fn check_escalation(&self, admission: &Admission<'_>) -> Result<(), ApiError> {
        let info = &admission.kind.info;
        if info.gvk.group != "rbac.authorization.k8s.io" || admission.user.in_group("system:masters") {
            return Ok(());
        }
        let (Some(new), Some(rbac)) = (&admission.object, &self.rbac) else { return Ok(()) };
        let write = escalation::Write {
            user: admission.user,
            resource: &info.plural,
            namespace: admission.namespace,
            new,
            old: admission.old,
        };
        let policy = rbac.policy().await;
        match &*info.plural {
            "roles" | "clusterroles" => escalation::check_role(&*self.authorizer, &policy, &write).await,
            _ => escalation::check_binding(&*self.authorizer, &policy, &write).await,
        }
    }
}
