//! ServiceCIDR.

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use crate::check;
use crate::facts::{AGE, Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet, empty_status};
use crate::value::{age, list, name};

static RULES: RuleSet = RuleSet {
    status: Some(empty_status),
    validate,
    validate_update: Some(|_, obj, old| {
        let mut errors = Vec::new();
        let path = Path::new("spec").child("cidrs");
        check::immutable(&mut errors, obj.pointer("/spec/cidrs"), old.pointer("/spec/cidrs"), &path);
        errors
    }),
    row,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "ServiceCIDR", "servicecidrs")
        .status()
        .generation()
        .columns(&[NAME, ("CIDRs", "string", 0, "Ranges from which services get addresses."), AGE])
        .build(&RULES)
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = Path::new("spec").child("cidrs");
    let cidrs = list(obj, "/spec/cidrs");
    if cidrs.is_empty() {
        errors.push(FieldError::required(&path, "at least one CIDR required"));
    }
    if cidrs.len() > 2 {
        errors.push(FieldError::invalid(&path, cidrs.to_vec(), "may only hold up to 2 values"));
    }
    for (i, cidr) in cidrs.iter().filter_map(Value::as_str).enumerate() {
        check::names(&mut errors, names::is_cidr(cidr), cidr.into(), &path.index(i));
    }
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let cidrs: Vec<&str> = list(obj, "/spec/cidrs").iter().filter_map(Value::as_str).collect();
    vec![name(obj), cidrs.join(",").into(), age(obj, now)]
}
