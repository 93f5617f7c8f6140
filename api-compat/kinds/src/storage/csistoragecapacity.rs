//! CSIStorageCapacity.

use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use crate::check;
use crate::facts::{Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{name, text};

static RULES: RuleSet = RuleSet { validate, validate_update: Some(update), row, ..PLAIN };

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "CSIStorageCapacity", "csistoragecapacities")
        .namespaced()
        .columns(&[
            NAME,
            ("StorageClassName", "string", 0, "Class to which the capacity applies."),
            ("Capacity", "string", 0, "Bytes that are left."),
        ])
        .build(&RULES)
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check::dns_subdomain(&mut errors, text(obj, "/storageClassName"), &Path::new("storageClassName"));
    check::label_selector(&mut errors, obj.get("nodeTopology"), &Path::new("nodeTopology"));
    errors
}

fn update(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = validate(ctx, obj);
    for key in ["nodeTopology", "storageClassName"] {
        check::immutable(&mut errors, obj.get(key), old.get(key), &Path::new(key));
    }
    errors
}

fn row(obj: &Value, _now: &str) -> Vec<Value> {
    let capacity = obj
        .get("capacity")
        .map_or("<unset>".to_string(), |c| c.as_str().map_or_else(|| c.to_string(), str::to_string));
    vec![name(obj), text(obj, "/storageClassName").into(), capacity.into()]
}
