//! On which nodes a daemon pod belongs. Pure.

use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
    PodTemplateSpec, Taint, Toleration,
};

/// Whether a node should have the pod, and whether a pod that is there may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// A pod should run here.
    pub run: bool,
    /// A pod that runs here may go on.
    pub stay: bool,
}

/// Taints that daemon pods always tolerate: (key, effect).
const TOLERATED: &[(&str, &str)] = &[
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// The tolerations of a daemon pod.
fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let network = ("node.kubernetes.io/network-unavailable", "NoSchedule");
    let host = spec.host_network == Some(true);
    for (key, effect) in TOLERATED.iter().copied().chain(Some(network).filter(|_| host)) {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !all.contains(&toleration) {
            all.push(toleration);
        }
    }
    all
}

fn tolerated(all: &[Toleration], taint: &Taint) -> bool {
    let text = |v: &Option<String>| v.clone().unwrap_or_default();
    all.iter().any(|t| {
        let (effect, key) = (text(&t.effect), text(&t.key));
        (effect.is_empty() || effect == taint.effect)
            && (key.is_empty() || key == taint.key)
            && (text(&t.operator) == "Exists" || text(&t.value) == text(&taint.value))
    })
}

/// Decides about one node.
pub fn decide(template: &PodTemplateSpec, node: &Node) -> Placement {
    let nowhere = Placement { run: false, stay: false };
    let Some(spec) = template.spec.as_ref() else { return nowhere };
    let named = spec.node_name.as_deref().filter(|n| !n.is_empty());
    if named.is_some_and(|n| Some(n) != node.metadata.name.as_deref()) || !selects(spec, node) {
        return nowhere;
    }
    let own = tolerations(spec);
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_ref());
    let open = |effect: &str| {
        taints.into_iter().flatten().filter(|t| t.effect == effect).all(|t| tolerated(&own, t))
    };
    let stay = open("NoExecute");
    Placement { run: stay && open("NoSchedule"), stay }
}

fn selects(spec: &PodSpec, node: &Node) -> bool {
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|l| l.get(key));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    spec.node_selector.iter().flatten().all(|(k, v)| label(k) == Some(v))
        && required.is_none_or(|r| r.node_selector_terms.iter().any(|t| term_fits(t, node)))
}

fn term_fits(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|l| l.get(key)).map(String::as_str);
    let name = node.metadata.name.as_deref();
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|r| requirement_fits(r, label(&r.key)))
        && fields.iter().all(|r| requirement_fits(r, name.filter(|_| r.key == "metadata.name")))
}

fn requirement_fits(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|x| x == v));
    let numbers = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(a, b)| a > b),
        "Lt" => numbers().is_some_and(|(a, b)| a < b),
        _ => false,
    }
}

fn name_is(node: &str) -> NodeSelectorRequirement {
    NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    }
}

/// Ties a pod to a node through affinity, so that the scheduler binds it there and nowhere else, and adds the
/// tolerations of daemons.
pub fn pin(pod: &mut Pod, node: &str) {
    let spec = pod.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(spec));
    let affinity = spec.affinity.get_or_insert_with(Affinity::default);
    let nodes = affinity.node_affinity.get_or_insert_with(NodeAffinity::default);
    // The decision has weighed the other terms already; only the name counts from here.
    nodes.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_fields: Some(vec![name_is(node)]),
            match_expressions: None,
        }],
    });
}

/// The node that a daemon pod is for.
pub fn node_of(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if let Some(name) = spec.node_name.clone().filter(|n| !n.is_empty()) {
        return Some(name);
    }
    let required = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &required.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    terms
        .iter()
        .flat_map(|t| t.match_fields.iter().flatten())
        .find(|r| r.key == "metadata.name")?
        .values
        .as_ref()?
        .first()
        .cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn places() {
        let check = |spec: Value, node: Value, run: bool, stay: bool| {
            let mut pod_spec = spec.clone();
            pod_spec["containers"] = json!([]);
            let template: PodTemplateSpec = serde_json::from_value(json!({"spec": pod_spec})).unwrap();
            let node: Node = serde_json::from_value(node).unwrap();
            assert_eq!(decide(&template, &node), Placement { run, stay }, "{spec}");
        };
        let plain = json!({"metadata": {"name": "n", "labels": {"disk": "ssd"}}});
        check(json!({}), plain.clone(), true, true);
        check(json!({"nodeSelector": {"disk": "ssd"}}), plain.clone(), true, true);
        check(json!({"nodeSelector": {"disk": "hdd"}}), plain, false, false);
        let tainted = |key: &str, effect: &str| json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": key, "effect": effect}]}});
        check(json!({}), tainted("node.kubernetes.io/unschedulable", "NoSchedule"), true, true);
        check(json!({}), tainted("node.kubernetes.io/not-ready", "NoExecute"), true, true);
        check(json!({}), tainted("mine", "NoSchedule"), false, true);
        check(json!({}), tainted("mine", "NoExecute"), false, false);
    }

    #[test]
    fn pinned() {
        let mut pod: Pod = serde_json::from_value(json!({"spec": {"containers": []}})).unwrap();
        pin(&mut pod, "n7");
        assert_eq!(node_of(&pod).as_deref(), Some("n7"));
    }
}
