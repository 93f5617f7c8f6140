//! Rights of joining: who may ask for a node's certificates, whose requests are approved, and who reads what on nodes.
//! Entry point: [`ensure`].

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

/// Group of those who join with a token of this cluster.
pub const JOIN_GROUP: &str = "system:bootstrappers:knarr:default-node-token";
/// User of the service proxy; the overlay and the load balancer of agents watch with it too.
pub const PROXY_USER: &str = "system:kube-proxy";
const PASSWORDS: &str = "knarr-node-password-controller";
const RBAC: &str = "rbac.authorization.k8s.io";

async fn put<K>(api: Api<K>, object: Value) -> Result<(), kube::Error>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let params = PatchParams::apply("knarr").force();
    api.patch(&name, &params, &Patch::Apply(object)).await.map(|_| ())
}

fn role(kind: &str, name: &str, rules: Value) -> Value {
    json!({"apiVersion": format!("{RBAC}/v1"), "kind": kind, "metadata": {"name": name}, "rules": rules})
}

fn binding(kind: &str, name: &str, role: &str, subject: Value) -> Value {
    let role_kind = kind.trim_end_matches("Binding");
    json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": kind, "metadata": {"name": name},
        "roleRef": {"apiGroup": RBAC, "kind": role_kind, "name": role},
        "subjects": [subject],
    })
}

fn group(name: &str) -> Value {
    json!({"apiGroup": RBAC, "kind": "Group", "name": name})
}

fn account(name: &str) -> Value {
    json!({"kind": "ServiceAccount", "namespace": "kube-system", "name": name})
}

/// Applies the roles and bindings; what is right already is not written again.
///
/// # Errors
/// The first object that the server refuses.
pub async fn ensure(client: &Client) -> Result<(), kube::Error> {
    let roles = [role(
        "ClusterRole",
        "knarr:certificate-controller",
        json!([{"apiGroups": ["certificates.k8s.io"], "resources": ["signers"],
                "resourceNames": ["kubernetes.io/kubelet-serving", "knarr.io/node-component"],
                "verbs": ["approve", "sign"]}]),
    )];
    for object in roles {
        put(Api::<ClusterRole>::all(client.clone()), object).await?;
    }
    let nodeclient = "system:certificates.k8s.io:certificatesigningrequests";
    let bindings = [
        ("knarr:node-bootstrapper", "system:node-bootstrapper".to_owned(), group(JOIN_GROUP)),
        ("knarr:node-autoapprove-bootstrap", format!("{nodeclient}:nodeclient"), group(JOIN_GROUP)),
        ("knarr:node-autoapprove-rotation", format!("{nodeclient}:selfnodeclient"), group("system:nodes")),
        (
            "knarr:certificate-controller",
            "knarr:certificate-controller".to_owned(),
            account("certificate-controller"),
        ),
    ];
    for (name, role, subject) in bindings {
        let object = binding("ClusterRoleBinding", name, &role, subject);
        put(Api::<ClusterRoleBinding>::all(client.clone()), object).await?;
    }
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "delete"]}]);
    put(Api::<Role>::namespaced(client.clone(), "kube-system"), role("Role", PASSWORDS, rules)).await?;
    let object = binding("RoleBinding", PASSWORDS, PASSWORDS, account(PASSWORDS));
    put(Api::<RoleBinding>::namespaced(client.clone(), "kube-system"), object).await
}
