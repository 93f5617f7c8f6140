//! ResourceClaim.

use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use crate::check;
use crate::facts::{AGE, Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet, empty_status};
use crate::value::{age, each, fill, fill_text, is_empty, list, name, text};

static RULES: RuleSet = RuleSet {
    default: |obj| default_requests(obj, "/spec/devices/requests"),
    status: Some(empty_status),
    validate: |_, obj| {
        let mut errors = Vec::new();
        let spec = obj.get("spec").unwrap_or(&Value::Null);
        super::devices::claim_spec(&mut errors, spec, &Path::new("spec"));
        errors
    },
    validate_update: Some(update),
    row,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "ResourceClaim", "resourceclaims")
        .namespaced()
        .status()
        .columns(&[NAME, ("State", "string", 0, "Whether the claim is allocated and reserved."), AGE])
        .build(&RULES)
}

/// Mode and count of device requests.
pub(crate) fn default_requests(obj: &mut Value, pointer: &str) {
    let count = |r: &mut Value| {
        fill_text(r, "allocationMode", "ExactCount");
        if text(r, "/allocationMode") == "ExactCount" {
            fill(r, "count", 1);
        }
    };
    each(obj, pointer, |request| {
        crate::value::with(request, "/exactly", count);
        each(request, "/firstAvailable", count);
    });
}

fn update(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if ctx.subresource.is_none() {
        check::immutable(&mut errors, obj.get("spec"), old.get("spec"), &Path::new("spec"));
    }
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let mut state = Vec::new();
    if obj.pointer("/metadata/deletionTimestamp").is_some() {
        state.push("deleted");
    }
    if is_empty(obj.pointer("/status/allocation")) {
        if state.is_empty() {
            state.push("pending");
        }
    } else {
        state.push("allocated");
    }
    if !list(obj, "/status/reservedFor").is_empty() {
        state.push("reserved");
    }
    vec![name(obj), state.join(",").into(), age(obj, now)]
}
