//! PersistentVolumeClaim.

use knarr_machinery::quantity::Quantity;
use knarr_machinery::{FieldError, Path};
use serde_json::{Value, json};

use crate::check::{self, Errors};
use crate::facts::{AGE, Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::podspec::default_volume_claim;
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{age, list, name, text, with};

static RULES: RuleSet = RuleSet {
    default: |obj| with(obj, "/spec", default_volume_claim),
    status: Some(|| json!({"phase": "Pending"})),
    validate: |_, obj| {
        let mut errors = Vec::new();
        validate_spec(&mut errors, obj.get("spec").unwrap_or(&Value::Null), &Path::new("spec"));
        errors
    },
    validate_update: Some(validate_update),
    row,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
        .namespaced()
        .short(&["pvc"])
        .status()
        .columns(&[
            NAME,
            ("Status", "string", 0, "How the claim stands."),
            ("Volume", "string", 0, "Volume that it is bound to."),
            ("Capacity", "string", 0, "Size of the volume."),
            ("Access Modes", "string", 0, "Ways in which the volume can be mounted."),
            ("StorageClass", "string", 0, "Class of the claim."),
            ("VolumeAttributesClass", "string", 0, "Attributes class of the claim."),
            AGE,
            ("VolumeMode", "string", 1, "Filesystem or Block."),
        ])
        .build(&RULES)
}

/// A quantity as it was written, "" if there is none.
pub(crate) fn shown(value: Option<&Value>) -> String {
    value.map_or(String::new(), |v| v.as_str().map_or_else(|| v.to_string(), str::to_string))
}

/// `RWO,ROX,...`
pub(crate) fn access_modes(modes: &[Value]) -> String {
    [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ]
    .iter()
    .filter(|(long, _)| modes.iter().any(|m| m == long))
    .map(|(_, short)| *short)
    .collect::<Vec<_>>()
    .join(",")
}

/// The spec of a claim, also in templates.
pub(crate) fn validate_spec(errors: &mut Errors, spec: &Value, path: &Path) {
    let modes = list(spec, "/accessModes");
    if modes.is_empty() {
        errors.push(FieldError::required(&path.child("accessModes"), "at least 1 access mode is required"));
    }
    check::label_selector(errors, spec.get("selector"), &path.child("selector"));
    let valid = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    for m in modes.iter().filter_map(Value::as_str) {
        check::one_of(errors, m, &path.child("accessModes"), &valid, Some(""));
    }
    if modes.len() > 1 && modes.iter().any(|m| m == "ReadWriteOncePod") {
        errors.push(FieldError::forbidden(
            &path.child("accessModes"),
            "may not use ReadWriteOncePod with other access modes",
        ));
    }
    let at = path.child("resources").key("storage");
    match spec.pointer("/resources/requests/storage") {
        None => errors.push(FieldError::required(&at, "")),
        Some(v) => match Quantity::from_json(v) {
            Ok(q) if q.sign() <= 0 => {
                errors.push(FieldError::invalid(&at, v.clone(), "must be greater than zero"))
            }
            Ok(_) => {}
            Err(e) => errors.push(FieldError::invalid(&at, v.clone(), e)),
        },
    }
    let class = text(spec, "/storageClassName");
    if !class.is_empty() {
        check::dns_subdomain(errors, class, &path.child("storageClassName"));
    }
    check::one_of(
        errors,
        text(spec, "/volumeMode"),
        &path.child("volumeMode"),
        &["Block", "Filesystem"],
        None,
    );
}

fn validate_update(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if ctx.subresource == Some("status") {
        return errors;
    }
    let path = Path::new("spec");
    let spec = obj.get("spec").unwrap_or(&Value::Null);
    validate_spec(&mut errors, spec, &path);
    let bound = text(old, "/status/phase") == "Bound";
    let mut munged = spec.clone();
    let before = old.get("spec").cloned().unwrap_or_default();
    if text(&before, "/volumeName").is_empty() {
        crate::ruleset::keep(&mut munged, &before, "volumeName");
    }
    if before.get("storageClassName").is_none_or(Value::is_null) {
        crate::ruleset::keep(&mut munged, &before, "storageClassName");
    }
    crate::ruleset::keep(&mut munged, &before, "volumeAttributesClassName");
    let storage =
        |v: &Value| v.pointer("/resources/requests/storage").and_then(|q| Quantity::from_json(q).ok());
    if bound {
        crate::ruleset::keep(&mut munged, &before, "resources");
        if storage(spec) < storage(&before) {
            let at = path.child("resources").child("requests").child("storage");
            errors.push(FieldError::forbidden(&at, "field can not be less than status.capacity"));
        }
    }
    if !check::same(Some(&munged), Some(&before)) {
        errors.push(FieldError::forbidden(
            &path,
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        ));
    }
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let phase = if obj.pointer("/metadata/deletionTimestamp").is_some() {
        "Terminating"
    } else {
        text(obj, "/status/phase")
    };
    let bound = !text(obj, "/spec/volumeName").is_empty();
    let modes = if bound { access_modes(list(obj, "/status/accessModes")) } else { String::new() };
    let capacity = if bound { shown(obj.pointer("/status/capacity/storage")) } else { String::new() };
    let attributes = text(obj, "/spec/volumeAttributesClassName");
    vec![
        name(obj),
        phase.into(),
        text(obj, "/spec/volumeName").into(),
        capacity.into(),
        modes.into(),
        text(obj, "/spec/storageClassName").into(),
        if attributes.is_empty() { "<unset>" } else { attributes }.into(),
        age(obj, now),
        if text(obj, "/spec/volumeMode").is_empty() { "<unset>" } else { text(obj, "/spec/volumeMode") }
            .into(),
    ]
}
