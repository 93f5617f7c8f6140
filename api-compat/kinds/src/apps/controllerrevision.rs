//! ControllerRevision: an immutable snapshot of a workload's template.

use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use crate::check;
use crate::facts::{AGE, Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{age, flag, int, list, name, number, or_none, text};

static RULES: RuleSet = RuleSet { validate, validate_update: Some(validate_update), row, ..PLAIN };

pub(crate) fn kind() -> Kind {
    Facts::new("apps", "v1", "ControllerRevision", "controllerrevisions")
        .namespaced()
        .columns(&[
            NAME,
            ("Controller", "string", 0, "Controller that owns the revision."),
            ("Revision", "string", 0, "Number of the revision."),
            AGE,
        ])
        .build(&RULES)
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if obj.get("data").is_none_or(Value::is_null) {
        errors.push(FieldError::required(&Path::new("data"), "data is mandatory"));
    }
    check::non_negative(&mut errors, int(obj, "/revision"), &Path::new("revision"));
    errors
}

fn validate_update(_ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check::immutable(&mut errors, obj.get("data"), old.get("data"), &Path::new("data"));
    check::non_negative(&mut errors, int(obj, "/revision"), &Path::new("revision"));
    errors
}

/// The controlling owner as upstream prints it: `<resource>.<group>/<name>` with a guessed lower-case kind.
fn row(obj: &Value, now: &str) -> Vec<Value> {
    let owner = list(obj, "/metadata/ownerReferences").iter().find(|o| flag(o, "/controller"));
    let owner = owner.map(|o| {
        let kind = text(o, "/kind").to_ascii_lowercase();
        let group = text(o, "/apiVersion").split_once('/').map_or("", |(g, _)| g);
        let dot = if group.is_empty() { "" } else { "." };
        format!("{kind}{dot}{group}/{}", text(o, "/name"))
    });
    vec![name(obj), or_none(owner.unwrap_or_default()), number(obj, "/revision"), age(obj, now)]
}
