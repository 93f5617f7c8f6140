//! A pod's containers in one list, and questions about its specification.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use sha2::{Digest, Sha256};

/// What a container is in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next starts.
    Init,
    /// An init container that is kept running beside the others.
    Sidecar,
    /// An ordinary container.
    App,
    /// Added for debugging; never restarted.
    Ephemeral,
}

/// A container with its role.
#[derive(Debug, Clone)]
pub struct Unit {
    /// Its role.
    pub role: Role,
    /// Its specification; of an ephemeral container the common part.
    pub container: Container,
    /// For an ephemeral container: whose process namespace it joins.
    pub target: Option<String>,
}

/// The pod's specification; an empty one if the document has none.
pub fn spec(pod: &Pod) -> std::borrow::Cow<'_, PodSpec> {
    match &pod.spec {
        Some(spec) => std::borrow::Cow::Borrowed(spec),
        None => std::borrow::Cow::Owned(PodSpec::default()),
    }
}

/// All containers: init, then app, then ephemeral.
pub fn units(pod: &Pod) -> Vec<Unit> {
    let spec = spec(pod);
    let init = spec.init_containers.iter().flatten().map(|c| {
        let role = if c.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init };
        Unit { role, container: c.clone(), target: None }
    });
    let app = spec.containers.iter().map(|c| Unit { role: Role::App, container: c.clone(), target: None });
    let ephemeral = spec.ephemeral_containers.iter().flatten().filter_map(|c| {
        // The two types have the same fields but for the target.
        let container = serde_json::to_value(c).and_then(serde_json::from_value).ok()?;
        Some(Unit {
            role: Role::Ephemeral,
            container,
            target: c.target_container_name.clone().filter(|t| !t.is_empty()),
        })
    });
    init.chain(app).chain(ephemeral).collect()
}

/// What of a container may not change while it runs.
pub fn hash(container: &Container) -> String {
    let digest =
        Sha256::digest(format!("{}\n{}", container.name, container.image.as_deref().unwrap_or_default()));
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a container that ended with `code` is to run again.
pub fn restarts(pod: &Pod, unit: &Unit, code: i32) -> bool {
    let own = unit.container.restart_policy.as_deref();
    for rule in unit.container.restart_policy_rules.iter().flatten() {
        if let Some(codes) = &rule.exit_codes {
            let listed = codes.values.iter().flatten().any(|v| *v == code);
            if (codes.operator == "In" && listed) || (codes.operator == "NotIn" && !listed) {
                return rule.action == "Restart";
            }
        }
    }
    match (unit.role, own.unwrap_or_else(|| policy(pod))) {
        (Role::Ephemeral, _) => false,
        (Role::Sidecar, _) => true,
        (_, "Never") => false,
        (_, "OnFailure") => code != 0,
        // An init container that ended well is done, whatever the pod's policy.
        (Role::Init, _) => code != 0,
        _ => true,
    }
}

/// The pod's restart policy.
pub fn policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or("Always")
}

/// Whether the pod uses the node's network.
pub fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_network) == Some(true)
}

/// `name_namespace(uid)`, as events and logs name a pod.
pub fn title(pod: &Pod) -> String {
    let m = &pod.metadata;
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    format!("{}_{}({})", text(&m.name), text(&m.namespace), text(&m.uid))
}
