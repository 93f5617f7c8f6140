//! The quality-of-service class of a pod.

use std::collections::BTreeMap;

use knarr_machinery::quantity::Quantity;
use serde_json::Value;

use crate::value::{list, map};

/// `Guaranteed`, `Burstable` or `BestEffort`, by cpu and memory of the pod or of all its containers.
pub(crate) fn qos_class(spec: &Value) -> &'static str {
    if map(spec, "/resources").is_some_and(|r| !r.is_empty()) {
        let (requests, limits) = (amounts(spec, "requests"), amounts(spec, "limits"));
        return class(&requests, &limits, limits.len() == 2);
    }
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    let mut all_limited = true;
    for c in list(spec, "/initContainers").iter().chain(list(spec, "/containers")) {
        add(&mut requests, amounts(c, "requests"));
        let own = amounts(c, "limits");
        all_limited &= own.len() == 2;
        add(&mut limits, own);
    }
    class(&requests, &limits, all_limited)
}

type Amounts = BTreeMap<&'static str, Quantity>;

fn amounts(holder: &Value, key: &str) -> Amounts {
    ["cpu", "memory"]
        .into_iter()
        .filter_map(|r| {
            let q = Quantity::from_json(holder.pointer(&format!("/resources/{key}/{r}"))?).ok()?;
            (q.sign() > 0).then_some((r, q))
        })
        .collect()
}

fn add(sum: &mut Amounts, more: Amounts) {
    for (key, q) in more {
        let total = sum.get(key).map_or_else(|| q.clone(), |s| s.add(&q));
        sum.insert(key, total);
    }
}

fn class(requests: &Amounts, limits: &Amounts, all_limited: bool) -> &'static str {
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if all_limited && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes() {
        let full = json!({"cpu": "1", "memory": "1Gi"});
        for (wanted, resources) in [
            ("BestEffort", json!({})),
            ("Burstable", json!({"requests": {"cpu": "100m"}})),
            ("Burstable", json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}})),
            ("Guaranteed", json!({"limits": full, "requests": full})),
        ] {
            let spec = json!({"containers": [{"resources": resources}]});
            assert_eq!(qos_class(&spec), wanted, "{resources}");
        }
    }
}
