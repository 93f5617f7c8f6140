//! ResourceQuota.

use knarr_machinery::quantity::Quantity;
use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use crate::check::{self, Errors};
use crate::facts::{AGE, Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::podspec::canonical_quantities;
use crate::ruleset::{PLAIN, RuleSet, empty_status};
use crate::value::{age, list, map, name};

static RULES: RuleSet = RuleSet {
    default: |obj| {
        for p in ["/spec/hard", "/status/hard", "/status/used"] {
            canonical_quantities(obj, p);
        }
    },
    status: Some(empty_status),
    validate,
    validate_update: Some(validate_update),
    row,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new("", "v1", "ResourceQuota", "resourcequotas")
        .namespaced()
        .short(&["quota"])
        .status()
        .columns(&[
            NAME,
            ("Request", "string", 0, "Use of what is asked for, and its bound."),
            ("Limit", "string", 0, "Use of limits, and their bound."),
            AGE,
        ])
        .build(&RULES)
}

/// A map of quota resources.
fn quantities(errors: &mut Errors, obj: &Value, pointer: &str, path: &Path) {
    for (key, value) in map(obj, pointer).into_iter().flatten() {
        let at = path.key(key);
        check::qualified_name(errors, key, &at);
        match Quantity::from_json(value) {
            Ok(q) if q.sign() < 0 => {
                errors.push(FieldError::invalid(&at, value.clone(), "must be greater than or equal to 0"))
            }
            Ok(q) => {
                let counted = key.starts_with("count/")
                    || matches!(
                        key.as_str(),
                        "pods"
                            | "services"
                            | "replicationcontrollers"
                            | "resourcequotas"
                            | "secrets"
                            | "configmaps"
                            | "persistentvolumeclaims"
                            | "services.nodeports"
                            | "services.loadbalancers"
                    );
                if counted && !q.is_integer() {
                    errors.push(FieldError::invalid(&at, value.clone(), "must be an integer"));
                }
            }
            Err(e) => errors.push(FieldError::invalid(&at, value.clone(), e)),
        }
        let known = key.contains('/')
            || key.starts_with("requests.")
            || key.starts_with("limits.")
            || key.starts_with("hugepages-")
            || matches!(
                key.as_str(),
                "cpu"
                    | "memory"
                    | "ephemeral-storage"
                    | "storage"
                    | "pods"
                    | "services"
                    | "replicationcontrollers"
                    | "resourcequotas"
                    | "secrets"
                    | "configmaps"
                    | "persistentvolumeclaims"
                    | "services.nodeports"
                    | "services.loadbalancers"
            );
        if !known {
            errors.push(FieldError::invalid(&at, key.as_str(), "must be a standard resource for quota"));
        }
    }
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    quantities(&mut errors, obj, "/spec/hard", &Path::new("spec").child("hard"));
    let scopes = [
        "BestEffort",
        "CrossNamespacePodAffinity",
        "NotBestEffort",
        "NotTerminating",
        "PriorityClass",
        "Terminating",
        "VolumeAttributesClass",
    ];
    let at = Path::new("spec").child("scopes");
    let given = list(obj, "/spec/scopes");
    for s in given.iter().filter_map(Value::as_str) {
        if !scopes.contains(&s) {
            errors.push(FieldError::invalid(&at, given.to_vec(), "unsupported scope"));
        }
    }
    for (a, b) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if given.iter().any(|s| s == a) && given.iter().any(|s| s == b) {
            errors.push(FieldError::invalid(&at, given.to_vec(), "conflicting scopes"));
        }
    }
    errors
}

fn validate_update(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if ctx.subresource == Some("status") {
        quantities(&mut errors, obj, "/status/hard", &Path::new("status").child("hard"));
        quantities(&mut errors, obj, "/status/used", &Path::new("status").child("used"));
        return errors;
    }
    errors.extend(validate(ctx, obj));
    let at = Path::new("spec").child("scopes");
    check::immutable(&mut errors, obj.pointer("/spec/scopes"), old.pointer("/spec/scopes"), &at);
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    let show = |v: Option<&Value>| {
        v.map_or("0".to_string(), |v| v.as_str().map_or_else(|| v.to_string(), str::to_string))
    };
    let mut hard: Vec<(&String, &Value)> = map(obj, "/status/hard").into_iter().flatten().collect();
    hard.sort_by_key(|(k, _)| *k);
    for (key, bound) in hard {
        let used = map(obj, "/status/used").and_then(|u| u.get(key));
        let cell = format!("{key}: {}/{}", show(used), show(Some(bound)));
        if key.starts_with("limits.") { limits.push(cell) } else { requests.push(cell) }
    }
    vec![name(obj), requests.join(", ").into(), limits.join(", ").into(), age(obj, now)]
}
