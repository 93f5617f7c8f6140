//! VolumeAttributesClass.

use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use crate::check;
use crate::facts::{AGE, Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{age, is_empty, name, text};

static RULES: RuleSet = RuleSet {
    validate,
    validate_update: Some(|_, obj, old| {
        let mut errors = Vec::new();
        for key in ["driverName", "parameters"] {
            check::immutable(&mut errors, obj.get(key), old.get(key), &Path::new(key));
        }
        errors
    }),
    row,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "VolumeAttributesClass", "volumeattributesclasses")
        .short(&["vac"])
        .columns(&[NAME, ("DriverName", "string", 0, "Driver of the class."), AGE])
        .build(&RULES)
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if text(obj, "/driverName").is_empty() {
        errors.push(FieldError::required(&Path::new("driverName"), ""));
    }
    if is_empty(obj.get("parameters")) {
        errors
            .push(FieldError::required(&Path::new("parameters"), "must contain at least one key/value pair"));
    }
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    vec![name(obj), text(obj, "/driverName").into(), age(obj, now)]
}
