//! The admission chain as the registry's [`Hooks`]: the registry knows no plugins, the plugins know no registry.

use async_trait::async_trait;
use knarr_admission::{Chain, Request};
use knarr_machinery::{ApiError, GroupVersionResource};
use knarr_registry::{Admission, Hooks, Operation};

/// Joins the two.
pub struct ChainHooks(pub Chain);

fn operation(of: Operation) -> knarr_admission::Operation {
    match of {
        Operation::Create => knarr_admission::Operation::Create,
        Operation::Update => knarr_admission::Operation::Update,
        Operation::Delete => knarr_admission::Operation::Delete,
        Operation::Connect => knarr_admission::Operation::Connect,
    }
}

fn resource(admission: &Admission<'_>) -> GroupVersionResource {
    let info = &admission.kind.info;
    GroupVersionResource {
        group: info.gvk.group.clone(),
        version: info.gvk.version.clone(),
        resource: info.plural.clone(),
    }
}

/// The request as plugins see it; the object and the warnings are lent to it and given back afterwards.
fn request<'a, 'b: 'a>(admission: &mut Admission<'b>, resource: &'a GroupVersionResource) -> Request<'a> {
    Request {
        operation: operation(admission.operation),
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
        served: Some(admission.kind),
        rounds: knarr_admission::Rounds::default(),
        noted: knarr_admission::Notes::default(),
    }
}

#[async_trait]
impl Hooks for ChainHooks {
    async fn mutate(&self, admission: &mut Admission<'_>) -> Result<(), ApiError> {
        let resource = resource(admission);
        let mut lent = request(admission, &resource);
        let outcome = self.0.mutate(&mut lent).await;
        let (object, warnings) = (lent.object.take(), std::mem::take(&mut lent.warnings));
        let noted = lent.noted.take();
        admission.object = object;
        admission.warnings = warnings;
        admission.warnings.extend(noted);
        outcome
    }

    async fn validate(&self, admission: &mut Admission<'_>) -> Result<(), ApiError> {
        let resource = resource(admission);
        let mut lent = request(admission, &resource);
        let outcome = self.0.validate(&lent).await;
        let (object, warnings) = (lent.object.take(), std::mem::take(&mut lent.warnings));
        let noted = lent.noted.take();
        admission.object = object;
        admission.warnings = warnings;
        admission.warnings.extend(noted);
        outcome
    }
}
