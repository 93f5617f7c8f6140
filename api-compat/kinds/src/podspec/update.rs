//! What an update of a pod may change.

use knarr_machinery::{FieldError, Path};
use serde_json::{Map, Value};

use super::{annotations, is_mirror, validate_pod};
use crate::check::{self, Errors};
use crate::value::{int, is_empty, list, map, text};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

fn validate_annotations(errors: &mut Errors, obj: &Value, old: &Value) {
    let (meta, before) =
        (obj.get("metadata").unwrap_or(&Value::Null), old.get("metadata").unwrap_or(&Value::Null));
    let at = Path::new("metadata").child("annotations");
    annotations::validate_change(errors, meta, before, &at);
}

/// Update of the main resource: images, deadline, tolerations, gates.
pub(crate) fn validate_pod_update(obj: &Value, old: &Value) -> Errors {
    let mut errors = validate_pod(obj, Some(old));
    validate_annotations(&mut errors, obj, old);
    let spec = Path::new("spec");
    for key in ["containers", "initContainers"] {
        let pointer = format!("/spec/{key}");
        if list(obj, &pointer).len() != list(old, &pointer).len() {
            let detail = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(&spec.child(key), detail));
            return errors;
        }
    }
    if !deadline(&mut errors, obj, old, &spec.child("activeDeadlineSeconds")) {
        return errors;
    }
    tolerations(&mut errors, obj, old, &spec.child("tolerations"));
    gates(&mut errors, obj, old, &spec.child("schedulingGates"));
    let mut munged = obj.get("spec").cloned().unwrap_or_default();
    let before = old.get("spec").cloned().unwrap_or_default();
    munge(&mut munged, &before);
    if !list(old, "/spec/schedulingGates").is_empty() {
        node_selector(&mut errors, &mut munged, &before, &spec.child("nodeSelector"));
        node_affinity(&mut errors, &mut munged, &before, &spec.child("affinity").child("nodeAffinity"));
    }
    let mut changed = Vec::new();
    difference(&munged, &before, "", &mut changed);
    if !changed.is_empty() {
        let changes = changed.join("\n");
        let detail = format!("pod updates may not change fields other than {UPDATABLE}\n{changes}");
        errors.push(FieldError::forbidden(&spec, detail));
    }
    errors
}

/// The deadline may be set and lowered. False: nothing else is looked at.
fn deadline(errors: &mut Errors, obj: &Value, old: &Value, path: &Path) -> bool {
    let (new, before) = (int(obj, "/spec/activeDeadlineSeconds"), int(old, "/spec/activeDeadlineSeconds"));
    match (new, before) {
        (Some(n), _) if !(0..=i64::from(i32::MAX)).contains(&n) => {
            errors.push(FieldError::invalid(path, n, "must be between 0 and 2147483647, inclusive"));
            false
        }
        (Some(n), Some(b)) if n > b => {
            errors.push(FieldError::invalid(path, n, "must be less than or equal to previous value"));
            false
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(path, Value::Null, detail));
            true
        }
        _ => true,
    }
}

fn gates(errors: &mut Errors, obj: &Value, old: &Value, path: &Path) {
    let before: Vec<&str> = list(old, "/spec/schedulingGates").iter().map(|g| text(g, "/name")).collect();
    for (i, gate) in list(obj, "/spec/schedulingGates").iter().enumerate() {
        let name = text(gate, "/name");
        if !before.contains(&name) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.push(FieldError::forbidden(&path.index(i).child("name"), detail));
        }
    }
}

fn tolerations(errors: &mut Errors, obj: &Value, old: &Value, path: &Path) {
    let bare = |t: &Value| {
        let mut t = t.clone();
        crate::value::drop_key(&mut t, "tolerationSeconds");
        t
    };
    let new = list(obj, "/spec/tolerations");
    for before in list(old, "/spec/tolerations") {
        if !new.iter().any(|t| check::same(Some(&bare(t)), Some(&bare(before)))) {
            let detail = "existing toleration can not be modified except its tolerationSeconds";
            errors.push(FieldError::forbidden(path, detail));
            return;
        }
    }
}

/// Makes what may change equal to what was.
fn munge(spec: &mut Value, before: &Value) {
    for key in ["containers", "initContainers"] {
        let images: Vec<Value> =
            list(before, &format!("/{key}")).iter().map(|c| c["image"].clone()).collect();
        for (c, image) in spec.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().zip(images) {
            c["image"] = image;
        }
    }
    let mut take = vec!["activeDeadlineSeconds", "tolerations", "schedulingGates"];
    if int(before, "/terminationGracePeriodSeconds").is_some_and(|n| n < 0)
        && int(spec, "/terminationGracePeriodSeconds") == Some(1)
    {
        take.push("terminationGracePeriodSeconds");
    }
    for key in take {
        crate::ruleset::keep(spec, before, key);
    }
}

/// While a pod is gated its node selector may grow.
fn node_selector(errors: &mut Errors, spec: &mut Value, before: &Value, path: &Path) {
    let empty = Map::new();
    let (new, old) =
        (map(spec, "/nodeSelector").unwrap_or(&empty), map(before, "/nodeSelector").unwrap_or(&empty));
    if old.iter().any(|(k, v)| new.get(k) != Some(v)) {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.push(FieldError::invalid(path, Value::Object(new.clone()), detail));
    }
    crate::ruleset::keep(spec, before, "nodeSelector");
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// While a pod is gated its required node affinity may become narrower, and the preferred one may change.
fn node_affinity(errors: &mut Errors, spec: &mut Value, before: &Value, path: &Path) {
    let (new, old) = (spec.pointer("/affinity/nodeAffinity"), before.pointer("/affinity/nodeAffinity"));
    if check::same(new, old) {
        return;
    }
    let terms = |v: Option<&Value>| -> Vec<Value> {
        v.map(|v| list(v, &format!("/{REQUIRED}/nodeSelectorTerms")).to_vec()).unwrap_or_default()
    };
    let (now, was) = (terms(new), terms(old));
    let at = path.child(REQUIRED).child("nodeSelectorTerms");
    if !was.is_empty() && was.len() != now.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.push(FieldError::invalid(&at, now, detail));
    } else {
        for (i, (n, _)) in now.iter().zip(&was).enumerate().filter(|(_, (n, w))| !only_added(n, w)) {
            let detail = "only additions are allowed (no mutations or deletions)";
            errors.push(FieldError::invalid(&at.index(i), n.clone(), detail));
        }
    }
    let kept = old.cloned();
    let Some(spec) = spec.as_object_mut() else { return };
    let affinity = spec.entry("affinity").or_insert_with(|| Value::Object(Map::new()));
    if !affinity.is_object() {
        *affinity = Value::Object(Map::new());
    }
    match kept {
        Some(k) => affinity["nodeAffinity"] = k,
        None => crate::value::drop_key(affinity, "nodeAffinity"),
    }
}

/// Whether a term has all that the old one had, in the same places, and more only behind it.
fn only_added(new: &Value, old: &Value) -> bool {
    let keys = ["matchExpressions", "matchFields"];
    if keys.iter().all(|k| is_empty(old.get(*k))) {
        return keys.iter().all(|k| is_empty(new.get(*k)));
    }
    keys.iter().all(|k| {
        let (n, o) = (list(new, &format!("/{k}")), list(old, &format!("/{k}")));
        n.len() >= o.len() && n.iter().zip(o).all(|(a, b)| check::same(Some(a), Some(b)))
    })
}

/// Paths at which two documents differ.
pub(super) fn difference(new: &Value, old: &Value, path: &str, out: &mut Vec<String>) {
    match (new, old) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for k in keys {
                let (x, y) = (a.get(k), b.get(k));
                if !check::same(x, y) {
                    let at = if path.is_empty() { k.to_string() } else { format!("{path}.{k}") };
                    difference(x.unwrap_or(&Value::Null), y.unwrap_or(&Value::Null), &at, out);
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (x, y)) in a.iter().zip(b).enumerate() {
                difference(x, y, &format!("{path}[{i}]"), out);
            }
        }
        _ if !check::same(Some(new), Some(old)) => out.push(format!("- {path}: {old}\n+ {path}: {new}")),
        _ => {}
    }
}

/// Update of `ephemeralcontainers`: containers may only be added.
pub(crate) fn validate_ephemeral_update(obj: &Value, old: &Value) -> Errors {
    if is_mirror(old) {
        let detail = "static pods do not support ephemeral containers";
        return vec![FieldError::forbidden(&Path::new(""), detail)];
    }
    let mut errors = validate_pod(obj, Some(old));
    validate_annotations(&mut errors, obj, old);
    let path = Path::new("spec").child("ephemeralContainers");
    let new = list(obj, "/spec/ephemeralContainers");
    for before in list(old, "/spec/ephemeralContainers") {
        let name = text(before, "/name");
        let verb = match new.iter().find(|c| text(c, "/name") == name) {
            None => "removed",
            Some(c) if !check::same(Some(c), Some(before)) => "changed",
            Some(_) => continue,
        };
        let detail = format!("existing ephemeral containers {name:?} may not be {verb}\n");
        errors.push(FieldError::forbidden(&path, detail));
    }
    errors
}
