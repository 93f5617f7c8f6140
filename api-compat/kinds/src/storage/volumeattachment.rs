//! VolumeAttachment.

use knarr_machinery::{FieldError, Path};
use serde_json::{Value, json};

use crate::check;
use crate::facts::{AGE, Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{age, flag, name, or_none, text};

static RULES: RuleSet = RuleSet {
    status: Some(|| json!({"attached": false})),
    validate,
    validate_update: Some(|_, obj, old| {
        let mut errors = Vec::new();
        check::immutable(&mut errors, obj.get("spec"), old.get("spec"), &Path::new("spec"));
        errors
    }),
    row,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "VolumeAttachment", "volumeattachments")
        .status()
        .columns(&[
            NAME,
            ("Attacher", "string", 0, "Driver that attaches."),
            ("PV", "string", 0, "Volume that is attached."),
            ("Node", "string", 0, "Node to which it is attached."),
            ("Attached", "boolean", 0, "Whether it is attached."),
            AGE,
        ])
        .build(&RULES)
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    for key in ["attacher", "nodeName"] {
        if text(obj, &format!("/spec/{key}")).is_empty() {
            errors.push(FieldError::required(&spec.child(key), ""));
        }
    }
    let volume = !text(obj, "/spec/source/persistentVolumeName").is_empty();
    let inline = obj.pointer("/spec/source/inlineVolumeSpec").is_some_and(|v| !v.is_null());
    if !volume && !inline {
        errors.push(FieldError::required(
            &spec.child("source"),
            "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
        ));
    }
    if volume && inline {
        errors.push(FieldError::forbidden(
            &spec.child("source"),
            "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
        ));
    }
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    vec![
        name(obj),
        text(obj, "/spec/attacher").into(),
        or_none(text(obj, "/spec/source/persistentVolumeName")),
        text(obj, "/spec/nodeName").into(),
        flag(obj, "/status/attached").into(),
        age(obj, now),
    ]
}
