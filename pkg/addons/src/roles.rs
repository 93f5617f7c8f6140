//! Roles of our own parts beyond upstream's bootstrap policy: each gets what it reads and no more.
//! Entry point: [`ensure`].

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

/// User of the cluster DNS.
pub const DNS_USER: &str = "system:knarr:dns";
/// User of network policies.
pub const POLICY_USER: &str = "system:knarr:network-policy";
/// User that keeps the objects of built-in add-ons.
pub const ADDONS_USER: &str = "system:knarr:addons";

/// Applies the roles and bindings; what is right already is not written again.
///
/// # Errors
/// The first object that the server refuses.
pub async fn ensure(client: &Client) -> Result<(), kube::Error> {
    let dns = json!([
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]},
    ]);
    let policy = json!([
        {"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["get", "list", "watch"]},
    ]);
    let addons = json!([
        {"apiGroups": [""], "resources": ["services"], "verbs": ["get", "list", "watch", "create", "patch", "update"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices", "endpointslices/restricted"],
         "verbs": ["get", "list", "watch", "create", "patch", "update"]},
        {"apiGroups": [""], "resources": ["nodes", "pods", "namespaces"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["patch"]},
        {"apiGroups": [""], "resources": ["nodes/stats", "nodes/proxy", "nodes/metrics"], "verbs": ["get"]},
    ]);
    for (user, rules) in [(DNS_USER, dns), (POLICY_USER, policy), (ADDONS_USER, addons)] {
        let params = PatchParams::apply("knarr").force();
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": user}, "rules": rules,
        });
        Api::<ClusterRole>::all(client.clone()).patch(user, &params, &Patch::Apply(role)).await?;
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": user},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        });
        Api::<ClusterRoleBinding>::all(client.clone()).patch(user, &params, &Patch::Apply(binding)).await?;
    }
    Ok(())
}
