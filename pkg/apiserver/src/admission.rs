//! The admission chain as the registry's hooks.

use std::sync::Arc;

use async_trait::async_trait;
use knarr_admission::{Chain, Context, Operation as Op, Request};
use knarr_machinery::{ApiError, GroupVersionResource};
use knarr_registry::{Admission, Hooks, Operation};

use crate::server::ApiServer;

impl ApiServer {
    /// Puts the admission plugins in force, except those named.
    pub fn enable_admission(&self, disabled: &[String]) {
        let context = Context::new(self.own_client(), self.informers());
        self.set_admission(Arc::new(ChainHooks(Chain::new(&context, disabled))));
    }
}

struct ChainHooks(Chain);

/// A chain sees a request of its own; the object and the warnings travel there and back.
fn request<'r, 'a: 'r>(admission: &mut Admission<'a>, resource: &'r GroupVersionResource) -> Request<'r> {
    Request {
        operation: match admission.operation {
            Operation::Create => Op::Create,
            Operation::Update => Op::Update,
            Operation::Delete => Op::Delete,
            Operation::Connect => Op::Connect,
        },
        kind: admission.gvk,
        resource,
        subresource: admission.subresource,
        namespace: admission.namespace,
        name: admission.name,
        user: admission.user,
        object: admission.object.take(),
        old: admission.old,
        dry_run: admission.dry_run,
        options: admission.options,
        warnings: std::mem::take(&mut admission.warnings),
    }
}

fn resource_of(admission: &Admission<'_>) -> GroupVersionResource {
    let info = &admission.kind.info;
    GroupVersionResource::new(info.gvk.group.clone(), info.gvk.version.clone(), info.plural.clone())
}

#[async_trait]
impl Hooks for ChainHooks {
    async fn mutate(&self, admission: &mut Admission<'_>) -> Result<(), ApiError> {
        let resource = resource_of(admission);
        let (outcome, object, warnings) = {
            let mut request = request(admission, &resource);
            let outcome = self.0.mutate(&mut request).await;
            (outcome, request.object, request.warnings)
        };
        admission.object = object;
        admission.warnings = warnings;
        outcome
    }

    async fn validate(&self, admission: &mut Admission<'_>) -> Result<(), ApiError> {
        let resource = resource_of(admission);
        let (outcome, object, warnings) = {
            let request = request(admission, &resource);
            let outcome = self.0.validate(&request).await;
            (outcome, request.object, request.warnings)
        };
        admission.object = object;
        admission.warnings = warnings;
        outcome
    }
}
