//! DeviceTaintRule.

use knarr_machinery::Path;
use serde_json::Value;

use crate::facts::{AGE, Facts, NAME};
use crate::kind::Kind;
use crate::ruleset::{PLAIN, RuleSet, age_row, empty_status};
use crate::value::{fill, text, with};

static RULES: RuleSet = RuleSet {
    status: Some(empty_status),
    create: |ctx, obj| with(obj, "/spec/taint", |t| fill(t, "timeAdded", ctx.now)),
    update: |ctx, obj, old| {
        let (effect, time) = ("/spec/taint/effect", "/spec/taint/timeAdded");
        // A new effect starts a new time unless the client gave one.
        let restart = obj.pointer(time) == old.pointer(time) && text(obj, effect) != text(old, effect);
        with(obj, "/spec/taint", |t| {
            if restart {
                t["timeAdded"] = ctx.now.into();
            }
            fill(t, "timeAdded", ctx.now);
        });
    },
    validate: |_, obj| {
        let mut errors = Vec::new();
        let taint = obj.pointer("/spec/taint").unwrap_or(&Value::Null);
        super::devices::taint(&mut errors, taint, &Path::new("spec").child("taint"));
        errors
    },
    row: age_row,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "DeviceTaintRule", "devicetaintrules")
        .status()
        .generation()
        .columns(&[NAME, AGE])
        .build(&RULES)
}
