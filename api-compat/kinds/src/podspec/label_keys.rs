//! `matchLabelKeys` and `mismatchLabelKeys`: the values of the pod's own labels become requirements of the selector.

use serde_json::{Map, Value, json};

use crate::value::{each, list};

/// Fills the selectors of pod affinity terms and topology spread constraints of a new pod.
pub(crate) fn merge(pod: &mut Value) {
    let labels = pod.pointer("/metadata/labels").and_then(Value::as_object).cloned().unwrap_or_default();
    for kind in ["podAffinity", "podAntiAffinity"] {
        let base = format!("/spec/affinity/{kind}");
        each(pod, &format!("{base}/requiredDuringSchedulingIgnoredDuringExecution"), |t| term(t, &labels));
        each(pod, &format!("{base}/preferredDuringSchedulingIgnoredDuringExecution"), |w| {
            if let Some(t) = w.get_mut("podAffinityTerm") {
                term(t, &labels);
            }
        });
    }
    each(pod, "/spec/topologySpreadConstraints", |c| term(c, &labels));
}

fn term(term: &mut Value, labels: &Map<String, Value>) {
    // Without a selector the term matches nothing, whatever the labels are.
    if !term.get("labelSelector").is_some_and(Value::is_object) {
        return;
    }
    let mut added = Vec::new();
    for (field, operator) in [("/matchLabelKeys", "In"), ("/mismatchLabelKeys", "NotIn")] {
        for key in list(term, field).iter().filter_map(Value::as_str) {
            if let Some(value) = labels.get(key) {
                added.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    if !added.is_empty() {
        let selector = &mut term["labelSelector"];
        let mut all = list(selector, "/matchExpressions").to_vec();
        all.extend(added);
        selector["matchExpressions"] = all.into();
    }
}
