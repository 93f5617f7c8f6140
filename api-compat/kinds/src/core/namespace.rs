//! Namespace, with its `finalize` and `status` subresources.

use knarr_machinery::{FieldError, Path, Str, names};
use serde_json::{Value, json};

use crate::check;
use crate::facts::{AGE, Facts, GET_PATCH_UPDATE, NAME};
use crate::kind::{Ctx, Kind, Verb};
use crate::ruleset::{PLAIN, RuleSet, keep};
use crate::value::{age, list, name, sub, text};

static RULES: RuleSet = RuleSet {
    name: names::name_is_dns_label,
    default: name_label,
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

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, f) in list(obj, "/spec/finalizers").iter().filter_map(Value::as_str).enumerate() {
        let at = Path::new("spec").child("finalizers").index(i);
        check::qualified_name(&mut errors, f, &at);
        if !f.contains('/') && f != "kubernetes" && names::is_qualified_name(f).is_empty() {
            errors.push(FieldError::invalid(
                &at,
                f,
                "name is neither a standard finalizer name nor is it fully qualified",
            ));
        }
    }
    errors
}

fn validate_update(ctx: &Ctx<'_>, obj: &Value, _old: &Value) -> Vec<FieldError> {
    if ctx.subresource == Some("status") {
        let phase = text(obj, "/status/phase");
        let deleted = obj.pointer("/metadata/deletionTimestamp").is_some_and(|d| !d.is_null());
        let at = Path::new("status").child("phase");
        if deleted && phase != "Terminating" && !phase.is_empty() {
            return vec![FieldError::invalid(
                &at,
                phase,
                "may only be 'Terminating' if `deletionTimestamp` is not empty",
            )];
        }
        if !deleted && phase != "Active" {
            return vec![FieldError::invalid(
                &at,
                phase,
                "may only be 'Active' if `deletionTimestamp` is empty",
            )];
        }
        return Vec::new();
    }
    validate(ctx, obj)
}
