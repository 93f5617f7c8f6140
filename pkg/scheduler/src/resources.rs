//! Amounts of resources in whole numbers. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use knarr_machinery::quantity::Quantity as Amount;

/// CPU that a container without a request counts as when nodes are compared, in thousandths.
const DEFAULT_MILLI_CPU: i64 = 100;
/// Memory that a container without a request counts as when nodes are compared.
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts of all kinds of resources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// Number of pods (of nodes only).
    pub pods: i64,
    /// Huge pages and extended resources.
    pub scalar: BTreeMap<String, i64>,
}

type Quantities = BTreeMap<String, Quantity>;

impl Resources {
    /// From a list as in `requests` or `allocatable`. An amount that cannot be read counts as none: the API server
    /// does not store such.
    pub fn of(list: Option<&Quantities>) -> Self {
        let mut all = Self::default();
        for (name, quantity) in list.into_iter().flatten() {
            let Ok(amount) = Amount::parse(&quantity.0) else { continue };
            match name.as_str() {
                "cpu" => all.milli_cpu = amount.milli_value(),
                "memory" => all.memory = amount.value(),
                "ephemeral-storage" => all.ephemeral_storage = amount.value(),
                "pods" => all.pods = amount.value(),
                _ => {
                    all.scalar.insert(name.clone(), amount.value());
                }
            }
        }
        all
    }

    /// Adds amounts.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    /// Takes amounts away.
    pub fn sub(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
    }

    /// Raises each amount to the other's.
    pub fn max(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, f: fn(i64, i64) -> i64) {
        self.milli_cpu = f(self.milli_cpu, other.milli_cpu);
        self.memory = f(self.memory, other.memory);
        self.ephemeral_storage = f(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            let own = self.scalar.entry(name.clone()).or_insert(0);
            *own = f(*own, *amount);
        }
    }

    /// Whether nothing is asked for.
    pub fn is_zero(&self) -> bool {
        self.milli_cpu == 0
            && self.memory == 0
            && self.ephemeral_storage == 0
            && self.scalar.values().all(|amount| *amount == 0)
    }
}

/// What a pod asks a node for.
pub fn requests(pod: &Pod) -> Resources {
    total(pod, |c| Resources::of(c.resources.as_ref().and_then(|r| r.requests.as_ref())))
}

/// What a pod counts as when nodes are compared: containers without a request count as a little.
pub fn weight(pod: &Pod) -> Resources {
    let mut all = total(pod, |c| {
        let requests = c.resources.as_ref().and_then(|r| r.requests.as_ref());
        let mut amounts = Resources::of(requests);
        let has = |name: &str| requests.is_some_and(|r| r.contains_key(name));
        if !has("cpu") {
            amounts.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !has("memory") {
            amounts.memory = DEFAULT_MEMORY;
        }
        amounts
    });
    all.scalar.clear();
    all
}

/// Containers run together, sidecars with them; other init containers run one by one, beside the sidecars before
/// them. Pod-level requests replace the sum.
fn total(pod: &Pod, of: impl Fn(&Container) -> Resources) -> Resources {
    let Some(spec) = pod.spec.as_ref() else { return Resources::default() };
    let mut all = Resources::default();
    for container in &spec.containers {
        all.add(&of(container));
    }
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut now = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            all.add(&now);
            sidecars.add(&now);
            starting.max(&sidecars);
        } else {
            now.add(&sidecars);
            starting.max(&now);
        }
    }
    all.max(&starting);
    if let Some(whole) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        let told = Resources::of(Some(whole));
        if whole.contains_key("cpu") {
            all.milli_cpu = told.milli_cpu;
        }
        if whole.contains_key("memory") {
            all.memory = told.memory;
        }
        all.scalar.extend(told.scalar);
    }
    all.add(&Resources::of(spec.overhead.as_ref()));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sums() {
        let container =
            |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "1Mi"}}});
        let mut sidecar = container("300m");
        sidecar["restartPolicy"] = json!("Always");
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "containers": [container("100m"), container("200m")],
            "initContainers": [sidecar, container("2")],
            "overhead": {"cpu": "10m"},
        }}))
        .unwrap();
        let all = requests(&pod);
        assert_eq!(all.milli_cpu, 2310, "the init container and its sidecar need most");
        assert_eq!(all.memory, 3 * 1024 * 1024);
        let bare: Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "c"}]}})).unwrap();
        assert!(requests(&bare).is_zero());
        assert_eq!((weight(&bare).milli_cpu, weight(&bare).memory), (100, 200 << 20));
    }
}
