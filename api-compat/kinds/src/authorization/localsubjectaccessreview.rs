//! LocalSubjectAccessReview.

use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use crate::facts::Facts;
use crate::kind::{Ctx, Kind, Verb};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::text;

static RULES: RuleSet = RuleSet { validate, ..PLAIN };

pub(crate) fn kind() -> Kind {
    Facts::new("authorization.k8s.io", "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews")
        .namespaced()
        .unstored(&[Verb::Create])
        .build(&RULES)
}

fn validate(ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = super::validate_review(obj, true);
    let attributes = Path::new("spec").child("resourceAttributes");
    if obj.pointer("/spec/nonResourceAttributes").is_some_and(|v| !v.is_null()) {
        errors.push(FieldError::invalid(
            &Path::new("spec").child("nonResourceAttributes"),
            obj["spec"]["nonResourceAttributes"].clone(),
            "disallowed on this kind of request",
        ));
    }
    let namespace = text(obj, "/spec/resourceAttributes/namespace");
    if obj.pointer("/spec/resourceAttributes").is_some() && namespace != ctx.namespace {
        errors.push(FieldError::invalid(
            &attributes.child("namespace"),
            namespace,
            "must match metadata.namespace",
        ));
    }
    errors
}
