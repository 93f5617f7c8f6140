//! StorageClass.

use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use crate::check;
use crate::facts::{AGE, Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{age, fill_text, flag, name, text};

static RULES: RuleSet = RuleSet {
    default: |obj| {
        fill_text(obj, "reclaimPolicy", "Delete");
        fill_text(obj, "volumeBindingMode", "Immediate");
    },
    validate,
    validate_update: Some(update),
    row,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "StorageClass", "storageclasses")
        .short(&["sc"])
        .columns(&[
            NAME,
            ("Provisioner", "string", 0, "Who provisions the volumes."),
            ("ReclaimPolicy", "string", 0, "What becomes of released volumes."),
            ("VolumeBindingMode", "string", 0, "When volumes are provisioned and bound."),
            ("AllowVolumeExpansion", "boolean", 0, "Whether volumes may grow."),
            AGE,
        ])
        .build(&RULES)
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let provisioner = text(obj, "/provisioner");
    if provisioner.is_empty() {
        errors.push(FieldError::required(&Path::new("provisioner"), ""));
    } else {
        check::qualified_name(&mut errors, &provisioner.to_lowercase(), &Path::new("provisioner"));
    }
    let policies = ["Delete", "Retain"];
    check::one_of(&mut errors, text(obj, "/reclaimPolicy"), &Path::new("reclaimPolicy"), &policies, None);
    let modes = ["Immediate", "WaitForFirstConsumer"];
    let path = Path::new("volumeBindingMode");
    check::one_of(&mut errors, text(obj, "/volumeBindingMode"), &path, &modes, Some(""));
    errors
}

fn update(_ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, detail) in [
        ("parameters", "updates to parameters are forbidden."),
        ("provisioner", "updates to provisioner are forbidden."),
        ("reclaimPolicy", "updates to reclaimPolicy are forbidden."),
    ] {
        if !check::same(obj.get(key), old.get(key)) {
            errors.push(FieldError::forbidden(&Path::new(key), detail));
        }
    }
    let key = "volumeBindingMode";
    check::immutable(&mut errors, obj.get(key), old.get(key), &Path::new(key));
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let is_default =
        ["storageclass.kubernetes.io~1is-default-class", "storageclass.beta.kubernetes.io~1is-default-class"]
            .iter()
            .any(|k| text(obj, &format!("/metadata/annotations/{k}")) == "true");
    let shown =
        if is_default { format!("{} (default)", text(obj, "/metadata/name")).into() } else { name(obj) };
    vec![
        shown,
        text(obj, "/provisioner").into(),
        text(obj, "/reclaimPolicy").into(),
        text(obj, "/volumeBindingMode").into(),
        flag(obj, "/allowVolumeExpansion").into(),
        age(obj, now),
    ]
}
