//! Binding: names the node of a pod; only created.

use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use crate::facts::Facts;
use crate::kind::{Ctx, Kind, Verb};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::text;

static RULES: RuleSet = RuleSet { validate, ..PLAIN };

pub(crate) fn kind() -> Kind {
    Facts::new("", "v1", "Binding", "bindings").namespaced().unstored(&[Verb::Create]).build(&RULES)
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let target = Path::new("target");
    let kind = text(obj, "/target/kind");
    if !kind.is_empty() && kind != "Node" {
        errors.push(FieldError::not_supported(&target.child("kind"), kind, &["Node", "<empty>"]));
    }
    if text(obj, "/target/name").is_empty() {
        errors.push(FieldError::required(&target.child("name"), ""));
    }
    errors
}
