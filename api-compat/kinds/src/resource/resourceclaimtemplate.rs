//! ResourceClaimTemplate.

use knarr_machinery::Path;
use serde_json::Value;

use super::resourceclaim::default_requests;
use crate::check;
use crate::facts::{AGE, Facts, NAME};
use crate::kind::Kind;
use crate::ruleset::{PLAIN, RuleSet, age_row};

static RULES: RuleSet = RuleSet {
    default: |obj| default_requests(obj, "/spec/spec/devices/requests"),
    validate: |_, obj| {
        let mut errors = Vec::new();
        let spec = obj.pointer("/spec/spec").unwrap_or(&Value::Null);
        super::devices::claim_spec(&mut errors, spec, &Path::new("spec").child("spec"));
        errors
    },
    validate_update: Some(|_, obj, old| {
        let mut errors = Vec::new();
        check::immutable(&mut errors, obj.get("spec"), old.get("spec"), &Path::new("spec"));
        errors
    }),
    row: age_row,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "ResourceClaimTemplate", "resourceclaimtemplates")
        .namespaced()
        .columns(&[NAME, AGE])
        .build(&RULES)
}
