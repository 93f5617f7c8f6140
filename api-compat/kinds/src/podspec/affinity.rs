//! Validation of node and pod affinity.

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use crate::check::{self, Errors};
use crate::value::{int, list, text};

/// All of `affinity`. Values of required node terms that were wrong in `old` already may stay wrong.
pub(super) fn validate(errors: &mut Errors, affinity: &Value, old: Option<&Value>, path: &Path) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    if let Some(node) = affinity.get("nodeAffinity").filter(|n| !n.is_null()) {
        let at = path.child("nodeAffinity");
        if let Some(required) = node.get(REQUIRED).filter(|r| !r.is_null()) {
            let strict = !old.is_some_and(has_wrong_values);
            node_selector(errors, required, strict, &at.child(REQUIRED));
        }
        for (i, term) in list(node, &format!("/{PREFERRED}")).iter().enumerate() {
            let here = at.child(PREFERRED).index(i);
            weight(errors, term, &here);
            // A preference that can never be met does no harm, so its values are not checked.
            let preference = term.get("preference").unwrap_or(&Value::Null);
            node_term(errors, preference, false, &here.child("preference"));
        }
    }
    for key in ["podAffinity", "podAntiAffinity"] {
        let Some(pod) = affinity.get(key).filter(|p| !p.is_null()) else { continue };
        for (i, term) in list(pod, &format!("/{REQUIRED}")).iter().enumerate() {
            pod_term(errors, term, &path.child(key).child(REQUIRED).index(i));
        }
        for (i, term) in list(pod, &format!("/{PREFERRED}")).iter().enumerate() {
            let here = path.child(key).child(PREFERRED).index(i);
            weight(errors, term, &here);
            pod_term(
                errors,
                term.get("podAffinityTerm").unwrap_or(&Value::Null),
                &here.child("podAffinityTerm"),
            );
        }
    }
}

fn weight(errors: &mut Errors, term: &Value, path: &Path) {
    if let Some(w) = int(term, "/weight").or(Some(0)).filter(|w| !(1..=100).contains(w)) {
        errors.push(FieldError::invalid(&path.child("weight"), w, "must be in the range 1-100"));
    }
}

/// A NodeSelector document.
pub(crate) fn validate_node_selector(errors: &mut Errors, selector: &Value, path: &Path) {
    node_selector(errors, selector, true, path);
}

fn node_selector(errors: &mut Errors, selector: &Value, strict: bool, path: &Path) {
    let at = path.child("nodeSelectorTerms");
    let terms = list(selector, "/nodeSelectorTerms");
    if terms.is_empty() {
        errors.push(FieldError::required(&at, "must have at least one node selector term"));
    }
    for (i, term) in terms.iter().enumerate() {
        node_term(errors, term, strict, &at.index(i));
    }
}

fn has_wrong_values(affinity: &Value) -> bool {
    let at = "/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    list(affinity, at)
        .iter()
        .flat_map(|t| list(t, "/matchExpressions"))
        .flat_map(|e| list(e, "/values"))
        .any(|v| !names::is_label_value(v.as_str().unwrap_or_default()).is_empty())
}

fn node_term(errors: &mut Errors, term: &Value, strict: bool, path: &Path) {
    for (i, e) in list(term, "/matchExpressions").iter().enumerate() {
        let at = path.child("matchExpressions").index(i);
        requirement(errors, e, &at);
        check::qualified_name(errors, text(e, "/key"), &at.child("key"));
        for (j, v) in list(e, "/values").iter().filter_map(Value::as_str).enumerate().filter(|_| strict) {
            check::names(errors, names::is_label_value(v), v.into(), &at.child("values").index(j));
        }
    }
    for (i, e) in list(term, "/matchFields").iter().enumerate() {
        node_field(errors, e, &path.child("matchFields").index(i));
    }
}

/// The only field of nodes that terms may name is the node's own name.
fn node_field(errors: &mut Errors, e: &Value, at: &Path) {
    let values = list(e, "/values");
    if !matches!(text(e, "/operator"), "In" | "NotIn") {
        let detail = "not a valid selector operator";
        errors.push(FieldError::invalid(&at.child("operator"), text(e, "/operator"), detail));
    } else if values.len() != 1 {
        let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
        errors.push(FieldError::required(&at.child("values"), detail));
    }
    let key = text(e, "/key");
    if key != "metadata.name" {
        errors.push(FieldError::invalid(&at.child("key"), key, "not a valid field selector key"));
        return;
    }
    for (i, v) in values.iter().filter_map(Value::as_str).enumerate() {
        check::dns_subdomain(errors, v, &at.child("values").index(i));
    }
}

fn requirement(errors: &mut Errors, e: &Value, path: &Path) {
    let count = list(e, "/values").len();
    match text(e, "/operator") {
        "In" | "NotIn" if count == 0 => {
            errors.push(FieldError::required(
                &path.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            ));
        }
        "Exists" | "DoesNotExist" if count > 0 => {
            errors.push(FieldError::forbidden(
                &path.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ));
        }
        "Gt" | "Lt" if count != 1 => {
            errors.push(FieldError::required(
                &path.child("values"),
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            ));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => {
            errors.push(FieldError::invalid(&path.child("operator"), other, "not a valid selector operator"))
        }
    }
}

fn pod_term(errors: &mut Errors, term: &Value, path: &Path) {
    check::label_selector(errors, term.get("labelSelector"), &path.child("labelSelector"));
    check::label_selector(errors, term.get("namespaceSelector"), &path.child("namespaceSelector"));
    for ns in list(term, "/namespaces").iter().filter_map(Value::as_str) {
        check::dns_label(errors, ns, &path.child("namespace"));
    }
    super::scheduling::validate_label_keys(errors, term, path);
    let key = text(term, "/topologyKey");
    if key.is_empty() {
        errors.push(FieldError::required(&path.child("topologyKey"), "can not be empty"));
    }
    check::qualified_name(errors, key, &path.child("topologyKey"));
}
