//! StorageVersionMigration.

use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use crate::check;
use crate::facts::{Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet, empty_status};
use crate::value::{name, text};

static RULES: RuleSet =
    RuleSet { status: Some(empty_status), validate, validate_update: Some(update), row, ..PLAIN };

pub(crate) fn kind() -> Kind {
    Facts::new("storagemigration.k8s.io", "v1", "StorageVersionMigration", "storageversionmigrations")
        .status()
        .generation()
        .columns(&[NAME, ("Resource", "string", 0, "Resource that is migrated.")])
        .build(&RULES)
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if text(obj, "/spec/resource/resource").is_empty() {
        let path = Path::new("spec").child("resource").child("resource");
        errors.push(FieldError::required(&path, "resource is required"));
    }
    errors
}

fn update(_ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check::immutable(&mut errors, obj.get("spec"), old.get("spec"), &Path::new("spec"));
    errors
}

fn row(obj: &Value, _now: &str) -> Vec<Value> {
    let (resource, group) = (text(obj, "/spec/resource/resource"), text(obj, "/spec/resource/group"));
    let dot = if group.is_empty() { "" } else { "." };
    vec![name(obj), format!("{resource}{dot}{group}").into()]
}
