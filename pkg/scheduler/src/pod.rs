//! A pod with what the scheduler derives from it once. Pure.

use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, PodSpec, PodStatus, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_client::selector_of;
use knarr_machinery::labels::Selector;

use crate::resources::{Resources, requests, weight};

/// A host port that a pod takes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Address, "0.0.0.0" for all.
    pub ip: String,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// Number.
    pub port: i32,
}

impl HostPort {
    /// Whether two pods cannot both have theirs.
    pub fn conflicts(&self, other: &Self) -> bool {
        const ALL: &str = "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || self.ip == ALL || other.ip == ALL)
    }
}

/// A term of pod (anti-)affinity, ready to be matched.
#[derive(Debug, Clone)]
pub struct Term {
    selector: Selector,
    namespaces: Vec<String>,
    /// Matched against the labels of namespaces; `None` when the term has no namespace selector.
    pub namespace_selector: Option<Selector>,
    /// Node label whose values are the places.
    pub topology_key: String,
    /// Weight of a preferred term, 0 for a required one.
    pub weight: i64,
}

impl Term {
    fn of(pod: &Pod, term: &PodAffinityTerm, weight: i32) -> Self {
        let mut selector = term.label_selector.clone();
        let label = |key: &str| pod.metadata.labels.as_ref().and_then(|l| l.get(key)).cloned();
        if let Some(selector) = selector.as_mut() {
            let mut extend = |keys: Option<&Vec<String>>, operator: &str| {
                for key in keys.into_iter().flatten() {
                    if let Some(value) = label(key) {
                        selector.match_expressions.get_or_insert_default().push(
                            k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement {
                                key: key.clone(),
                                operator: operator.to_owned(),
                                values: Some(vec![value]),
                            },
                        );
                    }
                }
            };
            extend(term.match_label_keys.as_ref(), "In");
            extend(term.mismatch_label_keys.as_ref(), "NotIn");
        }
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(pod.metadata.namespace.clone().unwrap_or_default());
        }
        Self {
            selector: selector_of(selector.as_ref()),
            namespaces,
            namespace_selector: term.namespace_selector.as_ref().map(|s| selector_of(Some(s))),
            topology_key: term.topology_key.clone(),
            weight: i64::from(weight),
        }
    }

    /// Whether a pod is meant. `namespace_labels` gives the labels of the pod's namespace.
    pub fn matches(&self, pod: &Pod, namespace_labels: impl Fn(&str) -> Option<Selectable>) -> bool {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let here = self.namespaces.iter().any(|n| n == namespace)
            || self.namespace_selector.as_ref().is_some_and(|selector| {
                selector.is_everything()
                    || namespace_labels(namespace).is_some_and(|labels| selector.matches(&labels))
            });
        here && matches(&self.selector, pod)
    }
}

/// Labels to match.
pub type Selectable = std::collections::BTreeMap<String, String>;

/// Whether a selector matches a pod's labels.
pub fn matches(selector: &Selector, pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    selector.matches_fn(|key| labels.and_then(|l| l.get(key)).map(String::as_str))
}

/// The four lists of pod affinity.
#[derive(Debug, Clone, Default)]
pub struct Affinities {
    /// Must be near all of these.
    pub required: Vec<Term>,
    /// Must not be near any of these.
    pub required_anti: Vec<Term>,
    /// Should be near.
    pub preferred: Vec<Term>,
    /// Should be far.
    pub preferred_anti: Vec<Term>,
}

/// A pod and what was derived from it.
#[derive(Debug)]
pub struct PodInfo {
    /// What of the object is looked at again: identity, labels, placement rules; no containers, no volumes.
    pub pod: Pod,
    /// Images of all containers, init containers included, as the pod names them.
    pub images: Vec<String>,
    /// What it asks for.
    pub requests: Resources,
    /// What it counts as when nodes are compared.
    pub weight: Resources,
    /// Ports on the host.
    pub ports: Vec<HostPort>,
    /// Pod affinity.
    pub affinities: Affinities,
}

impl PodInfo {
    /// Derives everything.
    pub fn new(pod: &Pod) -> Self {
        Self {
            requests: requests(pod),
            weight: weight(pod),
            ports: host_ports(pod),
            affinities: affinities(pod),
            images: images(pod),
            pod: essentials(pod),
        }
    }

    /// Whether another version of the pod asks for something else.
    pub fn differs(&self, other: &Self) -> bool {
        self.pod.spec != other.pod.spec
            || self.pod.metadata.labels != other.pod.metadata.labels
            || self.requests != other.requests
            || self.ports != other.ports
            || self.images != other.images
    }

    /// The pod's uid.
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// Namespace.
    pub fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// Name.
    pub fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    /// Priority, 0 when it has none.
    pub fn priority(&self) -> i32 {
        self.pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0)
    }

    /// Tolerations.
    pub fn tolerations(&self) -> &[Toleration] {
        self.pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
    }
}

fn images(pod: &Pod) -> Vec<String> {
    let Some(spec) = pod.spec.as_ref() else { return Vec::new() };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    containers.filter_map(|c| c.image.clone()).collect()
}

/// The scheduler knows every pod of the cluster: it keeps of each only what a decision reads.
fn essentials(pod: &Pod) -> Pod {
    let meta = &pod.metadata;
    let metadata = ObjectMeta {
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        labels: meta.labels.clone(),
        deletion_timestamp: meta.deletion_timestamp.clone(),
        ..ObjectMeta::default()
    };
    let spec = pod.spec.as_ref().map(|s| PodSpec {
        affinity: s.affinity.clone(),
        node_name: s.node_name.clone(),
        node_selector: s.node_selector.clone(),
        preemption_policy: s.preemption_policy.clone(),
        priority: s.priority,
        scheduler_name: s.scheduler_name.clone(),
        scheduling_gates: s.scheduling_gates.clone(),
        tolerations: s.tolerations.clone(),
        topology_spread_constraints: s.topology_spread_constraints.clone(),
        ..PodSpec::default()
    });
    let status = pod.status.as_ref().map(|s| {
        let conditions = s.conditions.iter().flatten().filter(|c| c.type_ == "PodScheduled");
        PodStatus {
            conditions: Some(conditions.cloned().collect()),
            nominated_node_name: s.nominated_node_name.clone(),
            phase: s.phase.clone(),
            start_time: s.start_time.clone(),
            ..PodStatus::default()
        }
    });
    Pod { metadata, spec, status }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = pod.spec.as_ref() else { return Vec::new() };
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            let port = p.host_port.filter(|n| *n > 0)?;
            let ip = p.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".to_owned());
            Some(HostPort { ip, protocol: p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), port })
        })
        .collect()
}

fn affinities(pod: &Pod) -> Affinities {
    let Some(affinity) = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()) else {
        return Affinities::default();
    };
    let mut all = Affinities::default();
    if let Some(near) = affinity.pod_affinity.as_ref() {
        let required = near.required_during_scheduling_ignored_during_execution.iter().flatten();
        all.required = required.map(|t| Term::of(pod, t, 0)).collect();
        let preferred = near.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        all.preferred = preferred.map(|t| Term::of(pod, &t.pod_affinity_term, t.weight)).collect();
    }
    if let Some(far) = affinity.pod_anti_affinity.as_ref() {
        let required = far.required_during_scheduling_ignored_during_execution.iter().flatten();
        all.required_anti = required.map(|t| Term::of(pod, t, 0)).collect();
        let preferred = far.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        all.preferred_anti = preferred.map(|t| Term::of(pod, &t.pod_affinity_term, t.weight)).collect();
    }
    all
}
