//! IPAddress: one object for each address that is given out to a service.

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use crate::check;
use crate::facts::{Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{name, text};

static RULES: RuleSet = RuleSet {
    name: |name, _| {
        let canonical = name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_string() == name);
        if canonical { Vec::new() } else { vec!["must be a canonical format IP address".to_string()] }
    },
    validate,
    validate_update: Some(|_, obj, old| {
        let mut errors = Vec::new();
        let path = Path::new("spec").child("parentRef");
        check::immutable(&mut errors, obj.pointer("/spec/parentRef"), old.pointer("/spec/parentRef"), &path);
        errors
    }),
    row,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "IPAddress", "ipaddresses")
        .short(&["ip"])
        .generation()
        .columns(&[NAME, ("ParentRef", "string", 0, "Object that holds the address.")])
        .build(&RULES)
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = Path::new("spec").child("parentRef");
    let Some(parent) = obj.pointer("/spec/parentRef").filter(|p| !p.is_null()) else {
        return vec![FieldError::required(&path, "")];
    };
    for key in ["resource", "name"] {
        let value = text(parent, &format!("/{key}"));
        if value.is_empty() {
            errors.push(FieldError::required(&path.child(key), ""));
        } else {
            check::names(&mut errors, names::path_segment_name(value, false), value.into(), &path.child(key));
        }
    }
    errors
}

fn row(obj: &Value, _now: &str) -> Vec<Value> {
    let parts: Vec<&str> = ["resource", "group", "namespace", "name"]
        .iter()
        .map(|k| text(obj, &format!("/spec/parentRef/{k}")))
        .collect();
    let dot = if parts[1].is_empty() { "" } else { "." };
    let space = if parts[2].is_empty() { String::new() } else { format!("{}/", parts[2]) };
    vec![name(obj), format!("{}{dot}{}/{space}{}", parts[0], parts[1], parts[3]).into()]
}
