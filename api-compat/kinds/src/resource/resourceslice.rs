//! ResourceSlice.

use knarr_machinery::{Path, Str};
use serde_json::Value;

use crate::check;
use crate::facts::{AGE, Facts, NAME};
use crate::kind::Kind;
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{age, each, fill, flag, name, text};

static RULES: RuleSet = RuleSet {
    // Taints without a time start now.
    create: |ctx, obj| {
        each(obj, "/spec/devices", |d| each(d, "/taints", |t| fill(t, "timeAdded", ctx.now)));
    },
    validate: |_, obj| {
        let mut errors = Vec::new();
        let spec = obj.get("spec").unwrap_or(&Value::Null);
        super::devices::slice_spec(&mut errors, spec, &Path::new("spec"));
        errors
    },
    validate_update: Some(|_, obj, old| {
        let (mut errors, path) = (Vec::new(), Path::new("spec"));
        super::devices::slice_spec(&mut errors, obj.get("spec").unwrap_or(&Value::Null), &path);
        for (pointer, at) in [
            ("/spec/driver", path.child("driver")),
            ("/spec/pool/name", path.child("pool").child("name")),
            ("/spec/nodeName", path.child("nodeName")),
        ] {
            check::immutable(&mut errors, obj.pointer(pointer), old.pointer(pointer), &at);
        }
        errors
    }),
    row,
    fields,
    ..PLAIN
};

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
