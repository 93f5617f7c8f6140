//! Quality of service, and resources as the kernel counts them. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};
use knarr_cri::v1;
use knarr_volumes::downward::milli;

use crate::spec;

/// The period of CPU quotas, in microseconds.
pub const PERIOD_MICROS: i64 = 100_000;

type List = BTreeMap<String, Quantity>;

/// The pod's class: `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos(pod: &Pod) -> &'static str {
    let spec = spec::spec(pod);
    let set = |list: Option<&List>, name: &str| {
        list.and_then(|l| l.get(name)).and_then(|q| milli(&q.0).ok()).filter(|m| *m > 0)
    };
    let (mut any, mut guaranteed) = (false, true);
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let resources = container.resources.clone().unwrap_or_default();
        for name in ["cpu", "memory"] {
            let (limit, request) =
                (set(resources.limits.as_ref(), name), set(resources.requests.as_ref(), name));
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|r| Some(r) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Thousandths of a resource in a container's requests or limits.
fn amount(list: Option<&List>, name: &str) -> Option<i64> {
    list.and_then(|l| l.get(name)).and_then(|q| milli(&q.0).ok()).and_then(|m| i64::try_from(m).ok())
}

/// Whether both mean the same CPU and memory, requests and limits.
pub fn same_compute(a: &ResourceRequirements, b: &ResourceRequirements) -> bool {
    ["cpu", "memory"].iter().all(|name| {
        amount(a.requests.as_ref(), name) == amount(b.requests.as_ref(), name)
            && amount(a.limits.as_ref(), name) == amount(b.limits.as_ref(), name)
    })
}

/// The memory limit in bytes; 0 for none.
pub fn memory_limit(resources: &ResourceRequirements) -> i64 {
    amount(resources.limits.as_ref(), "memory").unwrap_or_default() / 1000
}

fn requests(container: &Container) -> Option<&List> {
    container.resources.as_ref().and_then(|r| r.requests.as_ref())
}

fn limits(container: &Container) -> Option<&List> {
    container.resources.as_ref().and_then(|r| r.limits.as_ref())
}

fn shares(milli_cpu: i64) -> i64 {
    (milli_cpu * 1024 / 1000).clamp(2, 262_144)
}

fn quota(milli_cpu: i64) -> i64 {
    if milli_cpu <= 0 { 0 } else { (milli_cpu * PERIOD_MICROS / 1000).max(1000) }
}

/// What the runtime is told about one container.
pub fn of_container(
    pod: &Pod,
    container: &Container,
    memory_capacity_bytes: i64,
) -> v1::LinuxContainerResources {
    let cpu_limit = amount(limits(container), "cpu").unwrap_or_default();
    let cpu_request = amount(requests(container), "cpu").filter(|r| *r > 0).unwrap_or(cpu_limit);
    let memory_limit = amount(limits(container), "memory").unwrap_or_default() / 1000;
    v1::LinuxContainerResources {
        cpu_period: if cpu_limit > 0 { PERIOD_MICROS } else { 0 },
        cpu_quota: quota(cpu_limit),
        cpu_shares: shares(cpu_request),
        memory_limit_in_bytes: memory_limit,
        memory_swap_limit_in_bytes: memory_limit,
        oom_score_adj: oom_score_adj(pod, container, memory_capacity_bytes),
        ..Default::default()
    }
}

/// How readily the kernel kills a container for memory.
fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity_bytes: i64) -> i64 {
    if spec::spec(pod).priority.is_some_and(|p| p >= 2_000_000_000) {
        return -997;
    }
    match qos(pod) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let request = amount(requests(container), "memory")
                .or(amount(limits(container), "memory"))
                .unwrap_or_default()
                / 1000;
            let score = 1000 - request.saturating_mul(1000) / memory_capacity_bytes.max(1);
            if score == 1000 { 999 } else { score.max(3) }
        }
    }
}

/// The pod's own cgroup: limits only where every container has one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodLimits {
    /// CPU weight in the old scale.
    pub cpu_shares: i64,
    /// Microseconds per period.
    pub cpu_quota: Option<i64>,
    /// Bytes.
    pub memory_bytes: Option<i64>,
}

/// The greater of the app containers' sum (with sidecars) and any single init container.
fn total(pod: &Pod, value: impl Fn(&Container) -> Option<i64>) -> Option<i64> {
    let units = spec::units(pod);
    let (mut running, mut sidecars, mut peak) = (0i64, 0i64, 0i64);
    for unit in &units {
        match unit.role {
            spec::Role::App => running += value(&unit.container)?,
            spec::Role::Sidecar => sidecars += value(&unit.container)?,
            spec::Role::Init => peak = peak.max(value(&unit.container)? + sidecars),
            spec::Role::Ephemeral => {}
        }
    }
    Some((running + sidecars).max(peak))
}

/// The limits of the pod's cgroup.
pub fn of_pod(pod: &Pod) -> PodLimits {
    let cpu =
        total(pod, |c| Some(amount(requests(c), "cpu").or(amount(limits(c), "cpu")).unwrap_or_default()))
            .unwrap_or_default();
    let all = |name: &'static str| total(pod, move |c| amount(limits(c), name).filter(|l| *l > 0));
    PodLimits {
        cpu_shares: shares(cpu),
        cpu_quota: all("cpu").map(quota),
        memory_bytes: all("memory").map(|m| m / 1000),
    }
}

/// The pod's cgroup below the root that all pods share.
pub fn cgroup(pod: &Pod, root: &str) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let class = match qos(pod) {
        "Guaranteed" => "",
        "Burstable" => "burstable/",
        _ => "besteffort/",
    };
    format!("{}/kubepods/{class}pod{uid}", root.trim_end_matches('/'))
}

/// Every cgroup that a pod of this uid may have.
pub fn all_cgroups(uid: &str, root: &str) -> [String; 3] {
    ["", "burstable/", "besteffort/"]
        .map(|class| format!("{}/kubepods/{class}pod{uid}", root.trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(resources: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": [{"name": "c", "resources": resources}]}})).unwrap()
    }

    #[test]
    fn classes() {
        for (resources, class, path) in [
            (json!({}), "BestEffort", "/kubepods/besteffort/podu"),
            (json!({"requests": {"cpu": "1"}}), "Burstable", "/kubepods/burstable/podu"),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed", "/kubepods/podu"),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}),
                "Burstable",
                "/kubepods/burstable/podu",
            ),
        ] {
            let pod = pod(resources);
            assert_eq!((qos(&pod), cgroup(&pod, "/").as_str()), (class, path));
        }
    }

    #[test]
    fn kernel_values() {
        let pod = pod(
            json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "500m", "memory": "128Mi"}}),
        );
        let resources = of_container(&pod, &pod.spec.as_ref().unwrap().containers[0], 1 << 30);
        assert_eq!((resources.cpu_shares, resources.cpu_quota, resources.cpu_period), (102, 50_000, 100_000));
        assert_eq!((resources.memory_limit_in_bytes, resources.oom_score_adj), (128 << 20, 938));
        assert_eq!(
            of_pod(&pod),
            PodLimits { cpu_shares: 102, cpu_quota: Some(50_000), memory_bytes: Some(128 << 20) }
        );
    }
}
