//! Namespace, with its `finalize` and `status` subresources.

use knarr_machinery::{FieldError, Path, Str, names};
use serde_json::{Value, json};

use crate::check;
use crate::facts::{AGE, Facts, GET_PATCH_UPDATE, NAME};
use crate::kind::{Ctx, Kind, Verb};
use crate::ruleset::{PLAIN, RuleSet, keep};
use crate::value::{age, fill_text, list, name, sub, text};

static RULES: RuleSet = RuleSet {
    name: names::name_is_dns_label,
    default: |obj| {
        name_label(obj);
        fill_text(sub(obj, "status"), "phase", "Active");
    },
    create: |_, obj| {
        name_label(obj);
        if let Some(map) = obj.as_object_mut() {
            map.insert("status".to_string(), json!({"phase": "Active"}));
        }
        let finalizers = sub(sub(obj, "spec"), "finalizers");
        if finalizers.as_array().is_none_or(|f| !f.iter().any(|v| v == "kubernetes")) {
            let mut all = finalizers.as_array().cloned().unwrap_or_default();
            all.push("kubernetes".into());
            *finalizers = all.into();
        }
    },
    update,
    validate,
    validate_update: Some(validate_update),
    row: |obj, now| vec![name(obj), text(obj, "/status/phase").into(), age(obj, now)],
    fields: |obj| vec![(Str::from("status.phase"), text(obj, "/status/phase").to_string())],
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new("", "v1", "Namespace", "namespaces")
        .short(&["ns"])
        .verbs(&[Verb::Create, Verb::Delete, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch])
        .sub_self("finalize", &[Verb::Update])
        .sub_self("status", GET_PATCH_UPDATE)
        .columns(&[NAME, ("Status", "string", 0, "Active or Terminating."), AGE])
        .selectable(&["status.phase"])
        .build(&RULES)
}

/// The label by which selectors find the namespace by name.
fn name_label(obj: &mut Value) {
    let own = text(obj, "/metadata/name").to_string();
    if !own.is_empty() {
        sub(sub(obj, "metadata"), "labels")["kubernetes.io/metadata.name"] = own.into();
    }
}

/// `finalize` writes the finalizers, `status` the status, the main resource neither.
fn update(ctx: &Ctx<'_>, obj: &mut Value, old: &Value) {
    if ctx.subresource != Some("finalize") {
        keep(obj, old, "spec");
    }
    if ctx.subresource != Some("status") {
        keep(obj, old, "status");
    }
}

/// Names of finalizers: qualified, and without a domain only the ones that everybody knows.
fn finalizers(errors: &mut Vec<FieldError>, obj: &Value, at: impl Fn(usize) -> Path) {
    for (i, f) in list(obj, "/spec/finalizers").iter().filter_map(Value::as_str).enumerate() {
        check::qualified_name(errors, f, &at(i));
        if !f.contains('/') && !matches!(f, "kubernetes" | "orphan" | "foregroundDeletion") {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(&at(i), f, detail));
        }
    }
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    finalizers(&mut errors, obj, |_| Path::new("spec").child("finalizers"));
    errors
}

fn validate_update(ctx: &Ctx<'_>, obj: &Value, _old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match ctx.subresource {
        Some("finalize") => finalizers(&mut errors, obj, |i| Path::new("spec").child("finalizers").index(i)),
        Some("status") => {
            let phase = text(obj, "/status/phase");
            let deleted = obj.pointer("/metadata/deletionTimestamp").is_some_and(|d| !d.is_null());
            let at = Path::new("status").child("Phase");
            if deleted && phase != "Terminating" {
                let detail = "may only be 'Terminating' if `deletionTimestamp` is not empty";
                errors.push(FieldError::invalid(&at, phase, detail));
            } else if !deleted && phase != "Active" {
                let detail = "may only be 'Active' if `deletionTimestamp` is empty";
                errors.push(FieldError::invalid(&at, phase, detail));
            }
        }
        _ => {}
    }
    errors
}
