//! ReplicaSet.

use knarr_machinery::FieldError;
use serde_json::Value;

use crate::facts::Facts;
use crate::kind::{Ctx, Kind};
use crate::podspec::default_template;
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{fill, int, with};
use crate::workload;

static RULES: RuleSet = RuleSet {
    default: |obj| {
        with(obj, "/spec", |spec| {
            fill(spec, "replicas", 1);
            with(spec, "/template", default_template);
        });
    },
    status: Some(workload::no_replicas),
    validate,
    validate_update: Some(validate_update),
    warnings: crate::podspec::warnings::for_template,
    row,
    fields: workload::replica_fields,
    scale: workload::SCALE,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new("apps", "v1", "ReplicaSet", "replicasets")
        .namespaced()
        .short(&["rs"])
        .categories(&["all"])
        .scale()
        .status()
        .generation()
        .columns(workload::REPLICA_COLUMNS)
        .selectable(&["status.replicas"])
        .build(&RULES)
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    validate_with(obj, None)
}

fn validate_with(obj: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    workload::counts(&mut errors, obj, &["replicas", "minReadySeconds"]);
    workload::selector_and_template(&mut errors, obj, old, "replicaset");
    errors
}

/// Observed counts that may not be above `replicas`.
pub(crate) fn validate_status(obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let keys = [
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "observedGeneration",
        "terminatingReplicas",
    ];
    workload::status_counts(&mut errors, obj, &keys);
    let get = |k: &str| int(obj, &format!("/status/{k}")).unwrap_or(0);
    for (key, bound) in [
        ("fullyLabeledReplicas", "replicas"),
        ("readyReplicas", "replicas"),
        ("availableReplicas", "replicas"),
        ("availableReplicas", "readyReplicas"),
    ] {
        if get(key) > get(bound) {
            let at = knarr_machinery::Path::new("status").child(key);
            let what = if bound == "replicas" { "status.replicas" } else { "readyReplicas" };
            errors.push(FieldError::invalid(&at, get(key), format!("cannot be greater than {what}")));
        }
    }
    errors
}

fn validate_update(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    if ctx.subresource == Some("status") {
        return validate_status(obj);
    }
    let mut errors = validate_with(obj, Some(old));
    workload::same_selector(&mut errors, obj, old);
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    workload::replica_cells(obj, now, workload::template_cells(obj))
}
