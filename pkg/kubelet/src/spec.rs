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

/// Kernel settings that are kept apart by namespaces and cannot hurt the node.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// The first setting the pod asks for that it may not have.
pub fn forbidden_sysctl(pod: &Pod) -> Option<String> {
    let spec = spec(pod);
    let asked = spec.security_context.as_ref().and_then(|s| s.sysctls.clone()).unwrap_or_default();
    let shared = |name: &str| {
        (spec.host_network == Some(true) && name.starts_with("net."))
            || (spec.host_ipc == Some(true) && name.starts_with("kernel.shm"))
    };
    asked
        .into_iter()
        .map(|s| s.name.replace('/', "."))
        .find(|n| shared(n) || !SAFE_SYSCTLS.contains(&n.as_str()))
}

/// The first field of the pod that this node cannot honour.
pub fn unsupported(pod: &Pod) -> Option<&'static str> {
    let spec = spec(pod);
    let devices =
        || units(pod).iter().any(|u| u.container.volume_devices.as_ref().is_some_and(|d| !d.is_empty()));
    if spec.host_users == Some(false) {
        Some("spec.hostUsers=false")
    } else if spec.resource_claims.as_ref().is_some_and(|c| !c.is_empty()) {
        Some("spec.resourceClaims")
    } else if devices() {
        Some("spec.containers[*].volumeDevices")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_safe_kernel_settings_are_allowed() {
        let check = |name: &str, host: bool| {
            let spec = json!({"containers": [], "hostNetwork": host, "securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
            forbidden_sysctl(&serde_json::from_value(json!({"spec": spec})).unwrap())
        };
        assert_eq!(check("net.ipv4.tcp_syncookies", false), None);
        assert_eq!(check("net.ipv4.tcp_syncookies", true).as_deref(), Some("net.ipv4.tcp_syncookies"));
        assert_eq!(check("kernel.msgmax", false).as_deref(), Some("kernel.msgmax"));
    }

    #[test]
    fn restarts_follow_pod_container_and_rules() {
        let pod = |policy: &str, container: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"spec": {"restartPolicy": policy, "containers": [container]}}))
                .unwrap()
        };
        let check = |policy: &str, container: serde_json::Value, code: i32| {
            let pod = pod(policy, container);
            restarts(&pod, &units(&pod)[0], code)
        };
        assert!(check("Always", json!({"name": "c"}), 0));
        assert!(!check("OnFailure", json!({"name": "c"}), 0));
        assert!(check("Never", json!({"name": "c", "restartPolicy": "OnFailure"}), 1));
        let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
        assert!(check("Never", json!({"name": "c", "restartPolicyRules": rules}), 42));
        assert!(!check("Never", json!({"name": "c", "restartPolicyRules": rules}), 41));
    }
}
