//! CSIDriver.

use knarr_machinery::{FieldError, Path};
use serde_json::{Value, json};

use crate::check;
use crate::facts::{AGE, Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{age, fill, fill_text, flag, is_empty, list, name, sub, text};

static RULES: RuleSet = RuleSet { default, validate, row, ..PLAIN };

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "CSIDriver", "csidrivers")
        .generation()
        .columns(&[
            NAME,
            ("AttachRequired", "boolean", 0, "Whether volumes must be attached."),
            ("PodInfoOnMount", "boolean", 0, "Whether the driver wants to know the pod."),
            ("StorageCapacity", "boolean", 0, "Whether scheduling considers capacity."),
            ("TokenRequests", "string", 0, "Audiences of the tokens that the driver gets."),
            ("RequiresRepublish", "boolean", 0, "Whether volumes are published again and again."),
            ("Modes", "string", 0, "Lifecycles of the driver's volumes."),
            AGE,
        ])
        .build(&RULES)
}

fn default(obj: &mut Value) {
    let spec = sub(obj, "spec");
    fill(spec, "attachRequired", true);
    fill(spec, "podInfoOnMount", false);
    fill(spec, "storageCapacity", false);
    fill(spec, "requiresRepublish", false);
    fill(spec, "seLinuxMount", false);
    fill_text(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if is_empty(spec.get("volumeLifecycleModes")) {
        spec["volumeLifecycleModes"] = json!(["Persistent"]);
    }
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let modes = ["Ephemeral", "Persistent"];
    for (i, m) in list(obj, "/spec/volumeLifecycleModes").iter().filter_map(Value::as_str).enumerate() {
        check::one_of(&mut errors, m, &spec.child("volumeLifecycleModes").index(i), &modes, None);
    }
    let policies = ["File", "None", "ReadWriteOnceWithFSType"];
    check::one_of(
        &mut errors,
        text(obj, "/spec/fsGroupPolicy"),
        &spec.child("fsGroupPolicy"),
        &policies,
        None,
    );
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let join = |pointer: &str, key: &str| {
        let all: Vec<&str> = list(obj, pointer)
            .iter()
            .map(|v| if key.is_empty() { v.as_str().unwrap_or("") } else { text(v, key) })
            .collect();
        all.join(",")
    };
    let tokens = join("/spec/tokenRequests", "/audience");
    let modes = join("/spec/volumeLifecycleModes", "");
    vec![
        name(obj),
        flag(obj, "/spec/attachRequired").into(),
        flag(obj, "/spec/podInfoOnMount").into(),
        flag(obj, "/spec/storageCapacity").into(),
        if tokens.is_empty() { "<unset>".to_string() } else { tokens }.into(),
        flag(obj, "/spec/requiresRepublish").into(),
        if modes.is_empty() { "<none>".to_string() } else { modes }.into(),
        age(obj, now),
    ]
}
