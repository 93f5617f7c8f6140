//! The admission chain as the registry's [`Hooks`]: the registry knows no plugins, the plugins know no registry.

use async_trait::async_trait;
use knarr_admission::{Chain, Request};
use knarr_machinery::{ApiError, GroupVersionKind, GroupVersionResource};
use knarr_registry::{Admission, Hooks, Operation, scale};
use serde_json::Value;

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

/// A write of `scale` as plugins see it: the Scale, while the object itself is kept aside.
struct Scaled {
    gvk: GroupVersionKind,
    whole: Value,
    old: Option<Value>,
}

impl Scaled {
    /// Takes the object of a write of `scale` aside and puts its Scale there.
    fn take(admission: &mut Admission<'_>) -> Option<Self> {
        if admission.subresource != Some("scale") {
            return None;
        }
        let kind = admission.kind;
        let scale = scale::scale_of(kind, admission.object.as_ref()?)?;
        let whole = admission.object.replace(scale)?;
        let old = admission.old.and_then(|old| scale::scale_of(kind, old));
        Some(Self { gvk: GroupVersionKind::new("autoscaling", "v1", "Scale"), whole, old })
    }

    /// Puts the object back, with the replicas that plugins made.
    fn give_back(mut self, admission: &mut Admission<'_>) {
        if let Some(scale) = &admission.object {
            scale::take_scale(admission.kind, &mut self.whole, scale);
        }
        admission.object = Some(self.whole);
    }
}

/// The request as plugins see it; the object and the warnings are lent to it and given back afterwards.
fn request<'a, 'b: 'a>(
    admission: &mut Admission<'b>,
    resource: &'a GroupVersionResource,
    scaled: Option<&'a Scaled>,
) -> Request<'a> {
    Request {
        operation: operation(admission.operation),
        kind: scaled.map_or(admission.gvk, |s| &s.gvk),
        resource,
        subresource: admission.subresource,
        namespace: admission.namespace,
        name: admission.name,
        user: admission.user,
        object: admission.object.take(),
        old: scaled.map_or(admission.old, |s| s.old.as_ref()),
        dry_run: admission.dry_run,
        options: admission.options,
        warnings: std::mem::take(&mut admission.warnings),
        served: Some(admission.kind),
        rounds: knarr_admission::Rounds::default(),
        noted: knarr_admission::Notes::default(),
    }
}

/// Ends the loan.
fn settle(admission: &mut Admission<'_>, object: Option<Value>, warnings: Vec<String>, noted: Vec<String>) {
    admission.object = object;
    admission.warnings = warnings;
    admission.warnings.extend(noted);
}

#[async_trait]
impl Hooks for ChainHooks {
    async fn mutate(&self, admission: &mut Admission<'_>) -> Result<(), ApiError> {
        let resource = resource(admission);
        let scaled = Scaled::take(admission);
        let mut lent = request(admission, &resource, scaled.as_ref());
        let outcome = self.0.mutate(&mut lent).await;
        let Request { object, warnings, noted, .. } = lent;
        settle(admission, object, warnings, noted.take());
        if let Some(scaled) = scaled {
            scaled.give_back(admission);
        }
        outcome
    }

    async fn validate(&self, admission: &mut Admission<'_>) -> Result<(), ApiError> {
        let resource = resource(admission);
        let scaled = Scaled::take(admission);
        let lent = request(admission, &resource, scaled.as_ref());
        let outcome = self.0.validate(&lent).await;
        let Request { object, warnings, noted, .. } = lent;
        settle(admission, object, warnings, noted.take());
        if let Some(scaled) = scaled {
            scaled.give_back(admission);
        }
        outcome
    }
}
