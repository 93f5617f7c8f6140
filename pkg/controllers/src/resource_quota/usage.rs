//! What objects count for in a quota. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, PersistentVolumeClaim, Pod, ResourceQuota, ScopedResourceSelectorRequirement, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use knarr_machinery::quantity::{Format, Quantity};

use crate::pods::is_finished;

/// Amounts by name, as in `hard` and `used`.
pub type Amounts = BTreeMap<String, Quantity>;

/// Adds amounts.
pub fn add(all: &mut Amounts, name: &str, amount: &Quantity) {
    match all.get_mut(name) {
        Some(sum) => *sum = sum.add(amount),
        None => {
            all.insert(name.to_owned(), amount.clone());
        }
    }
}

fn one() -> Quantity {
    Quantity::from_value(1, Format::DecimalSi)
}

type Texts = BTreeMap<String, Text>;

fn read(list: Option<&Texts>) -> Amounts {
    list.into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), Quantity::parse(&v.0).ok()?))).collect()
}

fn raise(all: &mut Amounts, other: Amounts) {
    for (name, amount) in other {
        match all.get(&name) {
            Some(own) if *own >= amount => {}
            _ => {
                all.insert(name, amount);
            }
        }
    }
}

/// The sum over containers, with init containers one by one and sidecars all along.
fn total(pod: &Pod, of: impl Fn(&Container) -> Amounts) -> Amounts {
    let (mut all, mut sidecars, mut starting) = (Amounts::new(), Amounts::new(), Amounts::new());
    let Some(spec) = pod.spec.as_ref() else { return all };
    for container in &spec.containers {
        of(container).iter().for_each(|(k, v)| add(&mut all, k, v));
    }
    for container in spec.init_containers.iter().flatten() {
        let mut now = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            now.iter().for_each(|(k, v)| add(&mut all, k, v));
            now.iter().for_each(|(k, v)| add(&mut sidecars, k, v));
            raise(&mut starting, sidecars.clone());
        } else {
            sidecars.iter().for_each(|(k, v)| add(&mut now, k, v));
            raise(&mut starting, now);
        }
    }
    raise(&mut all, starting);
    read(spec.overhead.as_ref()).iter().for_each(|(k, v)| add(&mut all, k, v));
    all
}

/// What a pod counts for.
pub fn of_pod(pod: &Pod) -> Amounts {
    let mut used = Amounts::new();
    add(&mut used, "count/pods", &one());
    if is_finished(pod) {
        return used;
    }
    add(&mut used, "pods", &one());
    let whole = pod.spec.as_ref().and_then(|s| s.resources.as_ref());
    let mut requests = total(pod, |c| read(c.resources.as_ref().and_then(|r| r.requests.as_ref())));
    requests.extend(read(whole.and_then(|r| r.requests.as_ref())));
    let mut limits = total(pod, |c| read(c.resources.as_ref().and_then(|r| r.limits.as_ref())));
    limits.extend(read(whole.and_then(|r| r.limits.as_ref())));
    for (name, amount) in &requests {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-") {
            add(&mut used, name, amount);
        }
        add(&mut used, &format!("requests.{name}"), amount);
    }
    for (name, amount) in &limits {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            add(&mut used, &format!("limits.{name}"), amount);
        }
    }
    used
}

/// What a service counts for.
pub fn of_service(service: &Service) -> Amounts {
    let mut used = Amounts::new();
    add(&mut used, "services", &one());
    add(&mut used, "count/services", &one());
    let spec = service.spec.as_ref();
    let ports = spec.and_then(|s| s.ports.as_ref()).map_or(0, Vec::len);
    let ports = Quantity::from_value(i64::try_from(ports).unwrap_or(i64::MAX), Format::DecimalSi);
    match spec.and_then(|s| s.type_.as_deref()) {
        Some("NodePort") => add(&mut used, "services.nodeports", &ports),
        Some("LoadBalancer") => {
            add(&mut used, "services.loadbalancers", &one());
            if spec.and_then(|s| s.allocate_load_balancer_node_ports) != Some(false) {
                add(&mut used, "services.nodeports", &ports);
            }
        }
        _ => {}
    }
    used
}

/// What a claim counts for.
pub fn of_claim(claim: &PersistentVolumeClaim) -> Amounts {
    let mut used = Amounts::new();
    let spec = claim.spec.as_ref();
    let size = spec
        .and_then(|s| s.resources.as_ref())
        .and_then(|r| r.requests.as_ref())
        .and_then(|r| r.get("storage"));
    let size = size.and_then(|t| Quantity::parse(&t.0).ok());
    let mut note = |prefix: &str| {
        add(&mut used, &format!("{prefix}persistentvolumeclaims"), &one());
        if let Some(size) = &size {
            add(&mut used, &format!("{prefix}requests.storage"), size);
        }
    };
    note("");
    if let Some(class) = spec.and_then(|s| s.storage_class_name.as_deref()).filter(|c| !c.is_empty()) {
        note(&format!("{class}.storageclass.storage.k8s.io/"));
    }
    add(&mut used, "count/persistentvolumeclaims", &one());
    used
}

fn is_best_effort(pod: &Pod) -> bool {
    let set = |c: &Container| {
        let has = |list: Option<&Texts>| {
            read(list).iter().any(|(k, v)| (k == "cpu" || k == "memory") && !v.is_zero())
        };
        c.resources.as_ref().is_some_and(|r| has(r.requests.as_ref()) || has(r.limits.as_ref()))
    };
    pod.spec.as_ref().is_none_or(|s| !s.containers.iter().chain(s.init_containers.iter().flatten()).any(set))
}

fn fits(pod: &Pod, requirement: &ScopedResourceSelectorRequirement) -> bool {
    let spec = pod.spec.as_ref();
    let holds = match requirement.scope_name.as_str() {
        "Terminating" => spec.is_some_and(|s| s.active_deadline_seconds.is_some()),
        "NotTerminating" => spec.is_none_or(|s| s.active_deadline_seconds.is_none()),
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "CrossNamespacePodAffinity" => reaches_out(pod),
        "PriorityClass" => {
            let class = spec.and_then(|s| s.priority_class_name.as_deref()).filter(|c| !c.is_empty());
            let listed = class.is_some_and(|c| requirement.values.iter().flatten().any(|v| v == c));
            return match requirement.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => class.is_some(),
                "DoesNotExist" => class.is_none(),
                _ => false,
            };
        }
        _ => false,
    };
    match requirement.operator.as_str() {
        "DoesNotExist" => !holds,
        _ => holds,
    }
}

fn reaches_out(pod: &Pod) -> bool {
    let Some(affinity) = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()) else { return false };
    let near = affinity.pod_affinity.as_ref();
    let far = affinity.pod_anti_affinity.as_ref();
    let required = near
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .chain(far.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref()))
        .flatten();
    let preferred = near
        .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .chain(far.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref()))
        .flatten()
        .map(|w| &w.pod_affinity_term);
    required
        .chain(preferred)
        .any(|t| t.namespaces.as_ref().is_some_and(|n| !n.is_empty()) || t.namespace_selector.is_some())
}

/// Whether a quota counts the pod.
pub fn covers(quota: &ResourceQuota, pod: &Pod) -> bool {
    let Some(spec) = quota.spec.as_ref() else { return true };
    let plain = spec.scopes.iter().flatten().map(|scope| ScopedResourceSelectorRequirement {
        scope_name: scope.clone(),
        operator: "Exists".to_owned(),
        values: None,
    });
    let selected = spec.scope_selector.as_ref().and_then(|s| s.match_expressions.clone()).unwrap_or_default();
    plain.chain(selected).all(|r| fits(pod, &r))
}

/// Whether the quota has scopes, so that it counts pods only.
pub fn is_scoped(quota: &ResourceQuota) -> bool {
    quota.spec.as_ref().is_some_and(|s| {
        s.scopes.as_ref().is_some_and(|x| !x.is_empty())
            || s.scope_selector
                .as_ref()
                .and_then(|x| x.match_expressions.as_ref())
                .is_some_and(|x| !x.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::pod;
    use serde_json::json;

    #[test]
    fn pods_count() {
        let p = pod(json!({"spec": {"containers": [
            {"name": "a", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "1"}}},
            {"name": "b", "resources": {"requests": {"cpu": "400m", "x.io/gpu": "2"}}}]}}));
        let used = of_pod(&p);
        let text = |k: &str| used.get(k).map(ToString::to_string).unwrap_or_default();
        assert_eq!(
            (text("cpu"), text("requests.cpu"), text("limits.cpu")),
            ("500m".into(), "500m".into(), "1".into())
        );
        assert_eq!(
            (text("requests.memory"), text("requests.x.io/gpu"), text("pods")),
            ("64Mi".into(), "2".into(), "1".into())
        );
        let done = pod(json!({"status": {"phase": "Failed"}}));
        assert_eq!(of_pod(&done).keys().collect::<Vec<_>>(), ["count/pods"]);
    }

    #[test]
    fn scopes() {
        let quota = |scope: &str| {
            serde_json::from_value::<ResourceQuota>(json!({"spec": {"scopes": [scope]}})).unwrap()
        };
        let plain = pod(json!({"spec": {"containers": [{"name": "c"}]}}));
        let limited = pod(
            json!({"spec": {"activeDeadlineSeconds": 5, "containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}}]}}),
        );
        for (scope, a, b) in [
            ("BestEffort", true, false),
            ("NotBestEffort", false, true),
            ("Terminating", false, true),
            ("NotTerminating", true, false),
        ] {
            assert_eq!((covers(&quota(scope), &plain), covers(&quota(scope), &limited)), (a, b), "{scope}");
        }
    }
}
