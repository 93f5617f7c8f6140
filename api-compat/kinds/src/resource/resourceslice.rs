//! ResourceSlice.

use knarr_machinery::Str;
use serde_json::Value;

use crate::facts::{AGE, Facts, NAME};
use crate::kind::Kind;
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{age, flag, name, text};

static RULES: RuleSet = RuleSet { row, fields, ..PLAIN };

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "ResourceSlice", "resourceslices")
        .generation()
        .columns(&[
            NAME,
            ("Node", "string", 0, "Node that has the devices."),
            ("Driver", "string", 0, "Driver of the devices."),
            ("Pool", "string", 0, "Pool of the devices."),
            AGE,
        ])
        .selectable(&["spec.nodeName", "spec.driver"])
        .build(&RULES)
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let node = match text(obj, "/spec/nodeName") {
        "" if flag(obj, "/spec/allNodes") => "<all nodes>",
        "" if obj.pointer("/spec/nodeSelector").is_some() => "<selected nodes>",
        other => other,
    };
    vec![
        name(obj),
        node.into(),
        text(obj, "/spec/driver").into(),
        text(obj, "/spec/pool/name").into(),
        age(obj, now),
    ]
}

fn fields(obj: &Value) -> Vec<(Str, String)> {
    vec![
        ("spec.nodeName".into(), text(obj, "/spec/nodeName").to_string()),
        ("spec.driver".into(), text(obj, "/spec/driver").to_string()),
    ]
}
