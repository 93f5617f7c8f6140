//! The status of a CustomResourceDefinition: accepted names, establishment, termination. Pure steps: each returns
//! the changed document, or None when there is nothing to do.

use serde_json::{Map, Value, json};

use crate::value::{condition, list, text};

/// The finalizer behind which instances are deleted.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Whether a condition is True.
pub fn is_true(crd: &Value, kind: &str) -> bool {
    condition(crd, kind).is_some_and(|c| text(c, "/status") == "True")
}

/// Sets a condition; its transition time changes with its status only.
pub fn set_condition(crd: &mut Value, now: &str, condition: (&str, &str, &str, &str)) {
    let (kind, status, reason, message) = condition;
    let mut conditions = list(crd, "/status/conditions").to_vec();
    match conditions.iter_mut().find(|c| text(c, "/type") == kind) {
        Some(c) => {
            if text(c, "/status") != status {
                c["lastTransitionTime"] = now.into();
            }
            c["status"] = status.into();
            c["reason"] = reason.into();
            c["message"] = message.into();
        }
        None => conditions.push(json!({
            "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now,
        })),
    }
    if !crd["status"].is_object() {
        crd["status"] = Value::Object(Map::new());
    }
    crd["status"]["conditions"] = conditions.into();
}

/// What `others` of the same group have been granted: resource names, and kinds.
fn taken(crd: &Value, others: &[Value]) -> (Vec<String>, Vec<String>) {
    let (mut resources, mut kinds) = (Vec::new(), Vec::new());
    for other in others.iter().filter(|o| text(o, "/spec/group") == text(crd, "/spec/group")) {
        let name = |key: &str| text(other, &format!("/status/acceptedNames/{key}")).to_string();
        resources.extend([name("plural"), name("singular")]);
        let short = list(other, "/status/acceptedNames/shortNames");
        resources.extend(short.iter().filter_map(|v| v.as_str().map(str::to_string)));
        kinds.extend([name("kind"), name("listKind")]);
    }
    (resources, kinds)
}

/// Grants names that nobody else of the group has. `others` are all definitions, this one may be among them.
pub fn accept_names(crd: &Value, others: &[Value], now: &str) -> Option<Value> {
    let spec = crd.pointer("/spec/names").cloned().unwrap_or_default();
    let accepted = crd.pointer("/status/acceptedNames").cloned().unwrap_or_else(|| json!({}));
    if crate::check::same(Some(&spec), Some(&accepted)) && condition(crd, "NamesAccepted").is_some() {
        return None;
    }
    let (resources, kinds) = taken(crd, others);
    let mut names = accepted.clone();
    let mut verdict = ("True", "NoConflicts", "no conflicts found".to_string());
    let fresh = |wanted: &str, own: &str, used: &[String]| wanted == own || !used.iter().any(|u| u == wanted);
    let in_use = |name: &str| format!("{name:?} is already in use");
    for (key, reason, used) in [
        ("plural", "PluralConflict", &resources),
        ("singular", "SingularConflict", &resources),
        ("shortNames", "ShortNamesConflict", &resources),
        ("kind", "KindConflict", &kinds),
        ("listKind", "ListKindConflict", &kinds),
    ] {
        let pointer = format!("/{key}");
        let conflict = if key == "shortNames" {
            let own = list(&accepted, &pointer);
            let clash = |v: &&Value| !own.contains(v) && !fresh(v.as_str().unwrap_or(""), "", used);
            let found: Vec<String> = list(&spec, &pointer)
                .iter()
                .filter(clash)
                .map(|v| in_use(v.as_str().unwrap_or("")))
                .collect();
            match found.as_slice() {
                [] => None,
                [one] => Some(one.clone()),
                many => Some(format!("[{}]", many.join(", "))),
            }
        } else {
            let wanted = text(&spec, &pointer);
            (!fresh(wanted, text(&accepted, &pointer), used)).then(|| in_use(wanted))
        };
        match conflict {
            Some(message) => verdict = ("False", reason, message),
            None => copy(&mut names, &spec, key),
        }
    }
    copy(&mut names, &spec, "categories");
    let mut out = crd.clone();
    if !out["status"].is_object() {
        out["status"] = Value::Object(Map::new());
    }
    out["status"]["acceptedNames"] = names;
    set_condition(&mut out, now, ("NamesAccepted", verdict.0, verdict.1, &verdict.2));
    if !is_true(&out, "Established") {
        let state = if verdict.0 == "True" {
            ("Established", "False", "Installing", "the initial names have been accepted")
        } else {
            ("Established", "False", "NotAccepted", "not all names are accepted")
        };
        set_condition(&mut out, now, state);
    }
    (out != *crd).then_some(out)
}

fn copy(names: &mut Value, spec: &Value, key: &str) {
    let Some(map) = names.as_object_mut() else { return };
    match spec.get(key).filter(|v| !crate::value::is_empty(Some(v))) {
        Some(v) => map.insert(key.to_string(), v.clone()),
        None => map.remove(key),
    };
}

/// Establishes a definition whose names were accepted.
pub fn establish(crd: &Value, now: &str) -> Option<Value> {
    if !is_true(crd, "NamesAccepted") || is_true(crd, "Established") {
        return None;
    }
    let mut out = crd.clone();
    let text = "the initial names have been accepted";
    set_condition(&mut out, now, ("Established", "True", "InitialNamesAccepted", text));
    Some(out)
}

/// What the first delete does to a definition: it waits behind a finalizer.
pub fn begin_deletion(crd: &mut Value, now: &str) {
    let mut finalizers = list(crd, "/metadata/finalizers").to_vec();
    if !finalizers.iter().any(|f| f == CLEANUP_FINALIZER) {
        finalizers.push(CLEANUP_FINALIZER.into());
    }
    crd["metadata"]["finalizers"] = finalizers.into();
    crd["metadata"]["deletionTimestamp"] = now.into();
    let text = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    set_condition(crd, now, ("Terminating", "True", "InstanceDeletionPending", text));
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-01T00:00:00Z";

    fn crd(plural: &str, kind: &str) -> Value {
        json!({"metadata": {"name": format!("{plural}.x.io")}, "spec": {"group": "x.io", "names": {
            "plural": plural, "singular": plural, "kind": kind, "listKind": format!("{kind}List")}}})
    }

    #[test]
    fn names_and_establishment() {
        let a = accept_names(&crd("foos", "Foo"), &[], NOW).unwrap();
        assert!(is_true(&a, "NamesAccepted") && !is_true(&a, "Established"));
        assert_eq!(a["status"]["acceptedNames"]["kind"], "Foo");
        let a = establish(&a, NOW).unwrap();
        assert!(is_true(&a, "Established"));
        assert_eq!(establish(&a, NOW), None);
        assert_eq!(accept_names(&a, std::slice::from_ref(&a), NOW), None);

        let b = accept_names(&crd("bars", "Foo"), &[a], NOW).unwrap();
        let c = condition(&b, "NamesAccepted").unwrap();
        assert_eq!(
            (text(c, "/reason"), text(c, "/message")),
            ("ListKindConflict", "\"FooList\" is already in use")
        );
        assert_eq!(text(condition(&b, "Established").unwrap(), "/reason"), "NotAccepted");
        assert_eq!(establish(&b, NOW), None);
    }
}
