//! Resource lists of containers and pods as quantities.

use std::collections::BTreeMap;

use knarr_machinery::quantity::Quantity;
use serde_json::Value;

/// Quantities by resource name.
pub(crate) type ResourceList = BTreeMap<String, Quantity>;

/// Reads a resource list; what is no quantity is left out (validation tells it).
pub(crate) fn resource_list(v: &Value) -> ResourceList {
    let entries = v.as_object().into_iter().flatten();
    entries.filter_map(|(k, q)| Some((k.clone(), Quantity::from_json(q).ok()?))).collect()
}

/// Adds `b` to `a`.
pub(crate) fn add(a: &mut ResourceList, b: &ResourceList) {
    for (k, q) in b {
        let sum = a.get(k).map_or_else(|| q.clone(), |have| have.add(q));
        a.insert(k.clone(), sum);
    }
}

/// Raises `a` to at least `b`.
pub(crate) fn raise(a: &mut ResourceList, b: &ResourceList) {
    for (k, q) in b {
        if a.get(k).is_none_or(|have| have < q) {
            a.insert(k.clone(), q.clone());
        }
    }
}

/// The `containers` or `initContainers` of a pod spec.
pub(crate) fn containers<'a>(spec: &'a Value, field: &str) -> &'a [Value] {
    spec[field].as_array().map_or(&[], Vec::as_slice)
}

/// What a pod needs of `requests` or `limits`: its containers together with restartable init containers, or the
/// largest start step if that is more, and the overhead. Pod-level resources win where given.
pub(crate) fn pod_total(spec: &Value, field: &str) -> ResourceList {
    let mut total = ResourceList::new();
    for c in containers(spec, "containers") {
        add(&mut total, &resource_list(&c["resources"][field]));
    }
    let mut sidecars = ResourceList::new();
    let mut start = ResourceList::new();
    for c in containers(spec, "initContainers") {
        let own = resource_list(&c["resources"][field]);
        if c["restartPolicy"] == "Always" {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            raise(&mut start, &sidecars);
        } else {
            let mut step = own;
            add(&mut step, &sidecars);
            raise(&mut start, &step);
        }
    }
    raise(&mut total, &start);
    total.extend(resource_list(&spec["resources"][field]));
    let overhead = resource_list(&spec["overhead"]);
    for (k, q) in &overhead {
        // Overhead counts towards a limit only where there is one.
        if field == "requests" || total.contains_key(k) {
            let sum = total.get(k).map_or_else(|| q.clone(), |have| have.add(q));
            total.insert(k.clone(), sum);
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn totals() {
        let c = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let side = json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}});
        for (spec, want) in [
            (json!({"containers": [c("100m"), c("200m")]}), "300m"),
            (json!({"containers": [c("100m")], "initContainers": [c("1")]}), "1"),
            (json!({"containers": [c("100m")], "initContainers": [side, c("500m")]}), "600m"),
            (json!({"containers": [c("100m")], "overhead": {"cpu": "50m"}}), "150m"),
        ] {
            assert_eq!(pod_total(&spec, "requests")["cpu"].to_string(), want, "{spec}");
        }
    }
}
