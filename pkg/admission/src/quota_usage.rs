//! What an object counts towards quotas, and which quotas look at it.

use std::collections::{BTreeMap, BTreeSet};

use knarr_machinery::meta;
use knarr_machinery::quantity::{Format, Quantity};
use serde_json::Value;

use crate::limits::{ResourceList, containers, pod_total, resource_list};

/// Core resources that quotas count under their bare names.
const COUNTED: [&str; 7] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];

fn one(n: usize) -> Quantity {
    Quantity::from_value(i64::try_from(n).unwrap_or(i64::MAX), Format::DecimalSi)
}

/// What the object counts, by quota resource name.
pub(crate) fn usage(group: &str, resource: &str, object: &Value) -> ResourceList {
    let mut out = ResourceList::new();
    let dotted = if group.is_empty() { resource.to_string() } else { format!("{resource}.{group}") };
    out.insert(format!("count/{dotted}"), one(1));
    if !group.is_empty() {
        return out;
    }
    if COUNTED.contains(&resource) {
        out.insert(resource.to_string(), one(1));
    }
    match resource {
        "pods" => pod_usage(object, &mut out),
        "services" => service_usage(&object["spec"], &mut out),
        "persistentvolumeclaims" => claim_usage(object, &mut out),
        _ => {}
    }
    out
}

fn pod_usage(pod: &Value, out: &mut ResourceList) {
    if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        // Pods that have ended only count as objects.
        out.remove("pods");
        return;
    }
    for (name, q) in pod_total(&pod["spec"], "requests") {
        out.extend(quota_names(&name, "requests").into_iter().map(|n| (n, q.clone())));
    }
    for (name, q) in pod_total(&pod["spec"], "limits") {
        out.extend(quota_names(&name, "limits").into_iter().map(|n| (n, q.clone())));
    }
}

/// The quota names of a container resource.
fn quota_names(name: &str, kind: &str) -> Vec<String> {
    let plain = matches!(name, "cpu" | "memory" | "ephemeral-storage");
    match kind {
        "requests" if plain || name.starts_with("hugepages-") => {
            vec![name.to_string(), format!("requests.{name}")]
        }
        "requests" if name.contains('/') => vec![format!("requests.{name}")],
        "limits" if plain => vec![format!("limits.{name}")],
        _ => Vec::new(),
    }
}

fn service_usage(spec: &Value, out: &mut ResourceList) {
    let ports = spec["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let balancer = spec["type"] == "LoadBalancer";
    let nodeports = match spec["type"].as_str() {
        Some("NodePort") => ports.len(),
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => {
            ports.iter().filter(|p| p["nodePort"].as_i64().is_some_and(|n| n != 0)).count()
        }
        Some("LoadBalancer") => ports.len(),
        _ => 0,
    };
    out.insert("services.loadbalancers".to_string(), one(usize::from(balancer)));
    out.insert("services.nodeports".to_string(), one(nodeports));
}

fn claim_usage(claim: &Value, out: &mut ResourceList) {
    let annotated = meta::annotation(claim, "volume.beta.kubernetes.io/storage-class");
    let class = annotated.or(claim["spec"]["storageClassName"].as_str()).unwrap_or_default();
    let of_class = |what: &str| format!("{class}.storageclass.storage.k8s.io/{what}");
    if !class.is_empty() {
        out.insert(of_class("persistentvolumeclaims"), one(1));
    }
    if let Some(size) = resource_list(&claim["spec"]["resources"]["requests"]).remove("storage") {
        if !class.is_empty() {
            out.insert(of_class("requests.storage"), size.clone());
        }
        out.insert("requests.storage".to_string(), size);
    }
}

/// What the containers of a pod must specify because a quota bounds it, and do not.
pub(crate) fn unspecified(pod: &Value, bounded: &BTreeSet<String>) -> Option<String> {
    let needed = |n: &&String| {
        matches!(
            n.as_str(),
            "cpu" | "memory" | "requests.cpu" | "requests.memory" | "limits.cpu" | "limits.memory"
        )
    };
    let needed: Vec<&String> = bounded.iter().filter(needed).collect();
    let spec = &pod["spec"];
    if needed.is_empty() || !spec["resources"].is_null() {
        return None;
    }
    let mut gaps: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for c in containers(spec, "containers").iter().chain(containers(spec, "initContainers")) {
        let mut have = BTreeSet::new();
        for kind in ["requests", "limits"] {
            let names = resource_list(&c["resources"][kind]).into_keys();
            have.extend(names.flat_map(|n| quota_names(&n, kind)));
        }
        for n in needed.iter().filter(|n| !have.contains(n.as_str())) {
            gaps.entry(n).or_default().insert(c["name"].as_str().unwrap_or_default().to_string());
        }
    }
    let text = |(n, who): (&str, BTreeSet<String>)| {
        format!("{n} for: {}", who.into_iter().collect::<Vec<_>>().join(","))
    };
    let texts: Vec<String> = gaps.into_iter().map(text).collect();
    (!texts.is_empty()).then(|| format!("must specify {}", texts.join("; ")))
}

fn best_effort(spec: &Value) -> bool {
    let given = |c: &Value| {
        ["requests", "limits"]
            .iter()
            .any(|k| resource_list(&c["resources"][*k]).values().any(|q| !q.is_zero()))
    };
    !containers(spec, "containers").iter().chain(containers(spec, "initContainers")).any(given)
}

fn crosses_namespaces(spec: &Value) -> bool {
    let crosses = |term: &Value| {
        term["namespaces"].as_array().is_some_and(|n| !n.is_empty()) || !term["namespaceSelector"].is_null()
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = &spec["affinity"][*kind];
        let hard =
            affinity["requiredDuringSchedulingIgnoredDuringExecution"].as_array().into_iter().flatten();
        let soft =
            affinity["preferredDuringSchedulingIgnoredDuringExecution"].as_array().into_iter().flatten();
        hard.chain(soft.map(|t| &t["podAffinityTerm"])).any(crosses)
    })
}

fn scope_matches(spec: &Value, scope: &str, operator: &str, values: &[&str]) -> bool {
    match scope {
        "Terminating" => spec["activeDeadlineSeconds"].is_i64(),
        "NotTerminating" => !spec["activeDeadlineSeconds"].is_i64(),
        "BestEffort" => best_effort(spec),
        "NotBestEffort" => !best_effort(spec),
        "CrossNamespacePodAffinity" => crosses_namespaces(spec),
        "PriorityClass" => {
            let class = spec["priorityClassName"].as_str().filter(|c| !c.is_empty());
            match operator {
                "In" => class.is_some_and(|c| values.contains(&c)),
                "NotIn" => !class.is_some_and(|c| values.contains(&c)),
                "DoesNotExist" => class.is_none(),
                _ => class.is_some(),
            }
        }
        _ => false,
    }
}

/// Whether the scopes of a quota include the object. Only pods have scopes.
pub(crate) fn in_scope(quota: &Value, group: &str, resource: &str, object: &Value) -> bool {
    let spec = &quota["spec"];
    let scopes = spec["scopes"].as_array().map_or(&[][..], Vec::as_slice);
    let selectors = spec["scopeSelector"]["matchExpressions"].as_array().map_or(&[][..], Vec::as_slice);
    if scopes.is_empty() && selectors.is_empty() {
        return true;
    }
    if !(group.is_empty() && resource == "pods") {
        return false;
    }
    let pod = &object["spec"];
    scopes.iter().all(|s| scope_matches(pod, s.as_str().unwrap_or_default(), "Exists", &[]))
        && selectors.iter().all(|e| {
            let values: Vec<&str> =
                e["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let text = |f: &str| e[f].as_str().unwrap_or_default();
            scope_matches(pod, text("scopeName"), text("operator"), &values)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(u: ResourceList) -> Vec<String> {
        u.into_iter().map(|(k, q)| format!("{k}={q}")).collect()
    }

    #[test]
    fn usages() {
        let pod = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "100m", "acme.com/gpu": "1"}, "limits": {"memory": "1Gi"}}}]}});
        assert_eq!(
            texts(usage("", "pods", &pod)),
            [
                "count/pods=1",
                "cpu=100m",
                "limits.memory=1Gi",
                "pods=1",
                "requests.acme.com/gpu=1",
                "requests.cpu=100m"
            ]
        );
        let mut done = pod.clone();
        done["status"] = json!({"phase": "Succeeded"});
        assert_eq!(texts(usage("", "pods", &done)), ["count/pods=1"]);
        let svc = json!({"spec": {"type": "LoadBalancer", "ports": [{}, {}]}});
        assert_eq!(
            texts(usage("", "services", &svc)),
            ["count/services=1", "services=1", "services.loadbalancers=1", "services.nodeports=2"]
        );
        let claim =
            json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "5Gi"}}}});
        assert_eq!(
            texts(usage("", "persistentvolumeclaims", &claim)),
            [
                "count/persistentvolumeclaims=1",
                "gold.storageclass.storage.k8s.io/persistentvolumeclaims=1",
                "gold.storageclass.storage.k8s.io/requests.storage=5Gi",
                "persistentvolumeclaims=1",
                "requests.storage=5Gi"
            ]
        );
        assert_eq!(texts(usage("apps", "deployments", &json!({}))), ["count/deployments.apps=1"]);
    }

    #[test]
    fn missing_requests() {
        let bounded: BTreeSet<String> = ["cpu", "limits.memory", "pods"].map(String::from).into();
        let pod = json!({"spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}, {"name": "b"}]}});
        assert_eq!(unspecified(&pod, &bounded).unwrap(), "must specify cpu for: b; limits.memory for: a,b");
        assert_eq!(unspecified(&pod, &["pods".to_string()].into()), None);
    }

    #[test]
    fn scopes() {
        let quota =
            |scopes: Value, selector: Value| json!({"spec": {"scopes": scopes, "scopeSelector": selector}});
        let pod =
            json!({"spec": {"containers": [{}], "priorityClassName": "high", "activeDeadlineSeconds": 5}});
        let select = |op: &str, values: &[&str]| json!({"matchExpressions": [{"scopeName": "PriorityClass", "operator": op, "values": values}]});
        for (q, want) in [
            (quota(Value::Null, Value::Null), true),
            (quota(json!(["BestEffort", "Terminating"]), Value::Null), true),
            (quota(json!(["NotTerminating"]), Value::Null), false),
            (quota(Value::Null, select("In", &["high"])), true),
            (quota(Value::Null, select("NotIn", &["high"])), false),
            (quota(Value::Null, select("Exists", &[])), true),
        ] {
            assert_eq!(in_scope(&q, "", "pods", &pod), want, "{q}");
            let scoped = q != quota(Value::Null, Value::Null);
            assert_eq!(in_scope(&q, "", "services", &json!({})), !scoped);
        }
    }
}
