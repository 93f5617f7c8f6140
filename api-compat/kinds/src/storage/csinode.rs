//! CSINode.

use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use crate::facts::{AGE, Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet, empty_status};
use crate::value::{age, list, name, text};

static RULES: RuleSet = RuleSet { status: Some(empty_status), validate, row, ..PLAIN };

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "CSINode", "csinodes")
        .status()
        .columns(&[NAME, ("Drivers", "integer", 0, "Number of drivers on the node."), AGE])
        .build(&RULES)
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for (i, driver) in list(obj, "/spec/drivers").iter().enumerate() {
        let path = Path::new("spec").child("drivers").index(i);
        let given = text(driver, "/name");
        if given.is_empty() {
            errors.push(FieldError::required(&path.child("name"), ""));
        }
        if text(driver, "/nodeID").is_empty() {
            errors.push(FieldError::required(&path.child("nodeID"), ""));
        }
        if seen.contains(&given) {
            errors.push(FieldError::duplicate(&path.child("name"), given));
        }
        seen.push(given);
    }
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    vec![name(obj), list(obj, "/spec/drivers").len().into(), age(obj, now)]
}
