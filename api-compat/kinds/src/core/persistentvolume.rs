//! PersistentVolume.

use knarr_machinery::{FieldError, Path};
use serde_json::{Value, json};

use super::persistentvolumeclaim::{access_modes, shown};
use crate::check;
use crate::facts::{AGE, Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::podspec::{canonical_quantities, validate_node_selector};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{age, fill, fill_text, list, map, name, text, with};

static RULES: RuleSet = RuleSet {
    default: |obj| {
        with(obj, "/spec", |spec| {
            fill_text(spec, "persistentVolumeReclaimPolicy", "Retain");
            fill_text(spec, "volumeMode", "Filesystem");
            canonical_quantities(spec, "/capacity");
            with(spec, "/hostPath", |h| fill(h, "type", ""));
        });
    },
    status: Some(|| json!({"phase": "Pending"})),
    validate,
    validate_update: Some(validate_update),
    row,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new("", "v1", "PersistentVolume", "persistentvolumes")
        .short(&["pv"])
        .status()
        .columns(&[
            NAME,
            ("Capacity", "string", 0, "Size of the volume."),
            ("Access Modes", "string", 0, "Ways in which it can be mounted."),
            ("Reclaim Policy", "string", 0, "What becomes of it after release."),
            ("Status", "string", 0, "How the volume stands."),
            ("Claim", "string", 0, "Claim that it is bound to."),
            ("StorageClass", "string", 0, "Class of the volume."),
            ("VolumeAttributesClass", "string", 0, "Attributes class of the volume."),
            ("Reason", "string", 0, "Why it failed."),
            AGE,
            ("VolumeMode", "string", 1, "Filesystem or Block."),
        ])
        .build(&RULES)
}

/// Fields of the spec that are not sources.
const NOT_SOURCES: &[&str] = &[
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let modes = list(obj, "/spec/accessModes");
    if modes.is_empty() {
        errors.push(FieldError::required(&spec.child("accessModes"), ""));
    }
    let valid = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    for m in modes.iter().filter_map(Value::as_str) {
        check::one_of(&mut errors, m, &spec.child("accessModes"), &valid, Some(""));
    }
    let capacity = map(obj, "/spec/capacity");
    if capacity.is_none_or(serde_json::Map::is_empty) {
        errors.push(FieldError::required(&spec.child("capacity"), ""));
    } else if capacity.is_some_and(|c| !c.contains_key("storage") || c.len() > 1) {
        let at = spec.child("capacity");
        errors.push(FieldError::not_supported(&at, obj["spec"]["capacity"].clone(), &["storage"]));
    }
    let policies = ["Delete", "Recycle", "Retain"];
    let policy = text(obj, "/spec/persistentVolumeReclaimPolicy");
    check::one_of(&mut errors, policy, &spec.child("persistentVolumeReclaimPolicy"), &policies, None);
    let sources: Vec<&String> = map(obj, "/spec")
        .into_iter()
        .flatten()
        .filter(|(k, v)| !NOT_SOURCES.contains(&k.as_str()) && !v.is_null())
        .map(|(k, _)| k)
        .collect();
    match sources.as_slice() {
        [] => errors.push(FieldError::required(&spec, "must specify a volume type")),
        [only] => {
            if *only == "local" && obj.pointer("/spec/nodeAffinity/required").is_none_or(Value::is_null) {
                errors.push(FieldError::required(
                    &Path::new("metadata").child("annotations"),
                    "Local volume requires node affinity",
                ));
            }
            if *only == "hostPath" && text(obj, "/spec/hostPath/path") == "/" && policy == "Recycle" {
                errors.push(FieldError::forbidden(
                    &spec.child("persistentVolumeReclaimPolicy"),
                    "may not be 'recycle' for a hostPath mount of '/'",
                ));
            }
        }
        [_, rest @ ..] => {
            for key in rest {
                errors
                    .push(FieldError::forbidden(&spec.child(key), "may not specify more than 1 volume type"));
            }
        }
    }
    if let Some(required) = obj.pointer("/spec/nodeAffinity/required").filter(|r| !r.is_null()) {
        validate_node_selector(&mut errors, required, &spec.child("nodeAffinity").child("required"));
    }
    let class = text(obj, "/spec/storageClassName");
    if !class.is_empty() {
        check::dns_subdomain(&mut errors, class, &spec.child("storageClassName"));
    }
    check::one_of(
        &mut errors,
        text(obj, "/spec/volumeMode"),
        &spec.child("volumeMode"),
        &["Block", "Filesystem"],
        None,
    );
    errors
}

fn validate_update(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    if ctx.subresource == Some("status") {
        return Vec::new();
    }
    let mut errors = validate(ctx, obj);
    for (key, value) in map(old, "/spec").into_iter().flatten() {
        let source = !NOT_SOURCES.contains(&key.as_str());
        if source && obj["spec"].get(key) != Some(value) {
            errors.push(FieldError::forbidden(
                &Path::new("spec").child("persistentvolumesource"),
                "spec.persistentvolumesource is immutable after creation",
            ));
        }
    }
    let at = Path::new("spec").child("volumeMode");
    check::immutable(&mut errors, obj.pointer("/spec/volumeMode"), old.pointer("/spec/volumeMode"), &at);
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let phase = if obj.pointer("/metadata/deletionTimestamp").is_some() {
        "Terminating"
    } else {
        text(obj, "/status/phase")
    };
    let claim = match obj.pointer("/spec/claimRef").filter(|c| !c.is_null()) {
        Some(c) => format!("{}/{}", text(c, "/namespace"), text(c, "/name")),
        None => String::new(),
    };
    let attributes = text(obj, "/spec/volumeAttributesClassName");
    vec![
        name(obj),
        shown(obj.pointer("/spec/capacity/storage")).into(),
        access_modes(list(obj, "/spec/accessModes")).into(),
        text(obj, "/spec/persistentVolumeReclaimPolicy").into(),
        phase.into(),
        claim.into(),
        text(obj, "/spec/storageClassName").into(),
        if attributes.is_empty() { "<unset>" } else { attributes }.into(),
        text(obj, "/status/reason").into(),
        age(obj, now),
        if text(obj, "/spec/volumeMode").is_empty() { "<unset>" } else { text(obj, "/spec/volumeMode") }
            .into(),
    ]
}
