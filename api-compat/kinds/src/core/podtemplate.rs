//! PodTemplate.

use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use crate::facts::{Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::podspec;
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{container_cells, labels_text, map, name, with};

static RULES: RuleSet =
    RuleSet { default: |obj| with(obj, "/template", podspec::default_template), validate, row, ..PLAIN };

pub(crate) fn kind() -> Kind {
    Facts::new("", "v1", "PodTemplate", "podtemplates")
        .namespaced()
        .generation()
        .columns(&[
            NAME,
            ("Containers", "string", 0, "Container names in the template."),
            ("Images", "string", 0, "Images used by the containers in the template."),
            ("Pod Labels", "string", 0, "Labels of the pod template."),
        ])
        .build(&RULES)
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    podspec::validate_template(&obj["template"], &Path::new("template"))
}

fn row(obj: &Value, _now: &str) -> Vec<Value> {
    let (names, images) = container_cells(obj.pointer("/template/spec"));
    vec![name(obj), names, images, labels_text(map(obj, "/template/metadata/labels")).into()]
}
