//! RuntimeClass.

use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use crate::check;
use crate::facts::{AGE, Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{age, name, text};

static RULES: RuleSet = RuleSet { validate, validate_update: Some(validate_update), row, ..PLAIN };

pub(crate) fn kind() -> Kind {
    Facts::new("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses")
        .columns(&[NAME, ("Handler", "string", 0, "Configuration that the runtime uses."), AGE])
        .build(&RULES)
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check::dns_label(&mut errors, text(obj, "/handler"), &Path::new("handler"));
    let node_selector = obj.pointer("/scheduling/nodeSelector");
    check::labels(&mut errors, node_selector, &Path::new("scheduling").child("nodeSelector"));
    errors
}

fn validate_update(_ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check::immutable(&mut errors, obj.get("handler"), old.get("handler"), &Path::new("handler"));
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    vec![name(obj), text(obj, "/handler").into(), age(obj, now)]
}
