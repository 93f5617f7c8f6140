//! NodeRestriction: a kubelet writes its own Node, its own pods, its own lease, and tokens for its own pods.

use async_trait::async_trait;
use knarr_machinery::{ApiError, UserInfo, meta};
use serde_json::Value;

use crate::Plugin;
use crate::request::{Operation, Request};
use crate::state::{Api, Context};

const MIRROR: &str = "kubernetes.io/config.mirror";
/// Labels in the kubernetes.io and k8s.io domains that kubelets set.
const OWN_LABELS: [&str; 15] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "node.kubernetes.io/windows-build",
    "node.alpha.kubernetes.io/ttl",
];

/// The plugin.
pub(crate) struct NodeRestriction {
    api: Api,
}

impl NodeRestriction {
    pub(crate) fn new(context: &Context) -> Self {
        Self { api: context.api.clone() }
    }

    /// The pod of a request: what the request brings, else what the API has.
    async fn pod(&self, request: &Request<'_>) -> Result<Value, ApiError> {
        if request.old_object()["spec"].is_object() {
            return Ok(request.old_object().clone());
        }
        let path = format!("/api/v1/namespaces/{}/pods/{}", request.namespace, request.name);
        let found = self.api.get(&path).await?;
        found.ok_or_else(|| ApiError::not_found(&request.resource.group_resource(), request.name))
    }

    async fn judge(&self, node: &str, request: &Request<'_>) -> Result<(), ApiError> {
        let cause = match (&*request.resource.group, &*request.resource.resource, request.subresource) {
            ("", "pods", None) => self.main_pod(node, request).await?,
            ("", "pods", Some("status")) => pod_status(node, request),
            ("", "pods", Some("eviction")) => {
                let own = self.pod(request).await?["spec"]["nodeName"] == node;
                (!own).then(|| format!("node {node} can only evict pods with spec.nodeName set to itself"))
            }
            ("", "nodes", _) => own_node(node, request),
            ("", "serviceaccounts", Some("token")) => self.token(node, request).await?,
            ("coordination.k8s.io", "leases", _) => lease(node, request),
            ("storage.k8s.io", "csinodes", _) => {
                let text = "can only access CSINode with the same name as the requesting node";
                (request.shown_name() != node).then(|| text.to_string())
            }
            ("resource.k8s.io", "resourceslices", _) => slice(node, request),
            ("certificates.k8s.io", "podcertificaterequests", None) => {
                self.certificate(node, request).await?
            }
            _ => None,
        };
        cause.map_or(Ok(()), |c| Err(request.forbidden(c)))
    }

    async fn main_pod(&self, node: &str, request: &Request<'_>) -> Result<Option<String>, ApiError> {
        Ok(match request.operation {
            Operation::Create => new_pod(node, request.new_object()),
            Operation::Delete => {
                let own = self.pod(request).await?["spec"]["nodeName"] == node;
                (!own).then(|| format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
            }
            _ => Some(format!(
                "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                request.operation
            )),
        })
    }

    async fn certificate(&self, node: &str, request: &Request<'_>) -> Result<Option<String>, ApiError> {
        if request.operation != Operation::Create {
            return Ok(Some(format!(
                "unexpected operation {:?}, node {node:?} can only create requests",
                request.operation
            )));
        }
        let spec = &request.new_object()["spec"];
        let text = |f: &str| spec[f].as_str().unwrap_or_default();
        let of =
            |plural: &str, name: &str| format!("/api/v1/namespaces/{}/{plural}/{name}", request.namespace);
        let pod = self.api.get(&of("pods", text("podName"))).await?;
        let Some(pod) = pod else {
            return Ok(Some(format!("pod {:?} not found", text("podName"))));
        };
        let account = self.api.get(&of("serviceaccounts", text("serviceAccountName"))).await?;
        let own = self.api.get(&format!("/api/v1/nodes/{node}")).await?;
        Ok(mismatch(node, spec, &pod, &account.unwrap_or_default(), &own.unwrap_or_default()))
    }

    async fn token(&self, node: &str, request: &Request<'_>) -> Result<Option<String>, ApiError> {
        let bound = &request.new_object()["spec"]["boundObjectRef"];
        let text = |f: &str| bound[f].as_str().unwrap_or_default();
        if text("apiVersion") != "v1" || text("kind") != "Pod" || text("name").is_empty() {
            return Ok(Some("node requested token not bound to a pod".to_string()));
        }
        if text("uid").is_empty() {
            return Ok(Some("node requested token with a pod binding without a uid".to_string()));
        }
        let path = format!("/api/v1/namespaces/{}/pods/{}", request.namespace, text("name"));
        let pod = self.api.get(&path).await?.unwrap_or_default();
        if meta::uid(&pod) != text("uid") {
            let uid = text("uid");
            return Ok(Some(format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record"
            )));
        }
        if pod["spec"]["nodeName"] != node {
            return Ok(Some("node requested token bound to a pod scheduled on a different node".to_string()));
        }
        Ok(None)
    }
}

/// What a request for a pod's certificate says against what is known of the pod, its account and its node.
fn mismatch(node: &str, spec: &Value, pod: &Value, account: &Value, own: &Value) -> Option<String> {
    let text = |f: &str| spec[f].as_str().unwrap_or_default();
    if text("nodeName") != node {
        return Some(format!("node {node:?} can only request certificates for pods on itself"));
    }
    if meta::annotation(pod, MIRROR).is_some() {
        return Some("pod is a mirror pod, which has no certificates".to_string());
    }
    if pod["spec"]["nodeName"] != node {
        return Some(format!("pod {:?} is not running on node {node:?}", text("podName")));
    }
    if pod["spec"]["serviceAccountName"] != text("serviceAccountName") {
        return Some(format!(
            "pod {:?} does not run as service account {:?}",
            text("podName"),
            text("serviceAccountName")
        ));
    }
    let uids = [("podUID", pod), ("serviceAccountUID", account), ("nodeUID", own)];
    uids.into_iter()
        .find(|(field, object)| meta::uid(object) != text(field))
        .map(|(field, _)| format!("spec.{field} ({}) does not match the UID in record", text(field)))
}

/// The name of the node that the user is; as the node authorizer reads it.
fn node_name(user: &UserInfo) -> Option<&str> {
    let name = user.username.strip_prefix("system:node:")?;
    user.in_group("system:nodes").then_some(name)
}

/// Kubelets create mirror pods only, which refer to nothing but their node.
fn new_pod(node: &str, pod: &Value) -> Option<String> {
    if meta::annotation(pod, MIRROR).is_none() {
        return Some(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if pod["spec"]["nodeName"] != node {
        return Some(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owners = meta::owner_references(pod);
    let [owner] = owners else {
        let n = owners.len();
        return Some(if n == 0 {
            format!("node {node:?} can only create pods with an owner reference set to itself")
        } else {
            format!("node {node:?} can only create pods with a single owner reference set to itself")
        });
    };
    let own = owner["apiVersion"] == "v1" && owner["kind"] == "Node" && owner["name"] == node;
    if !own {
        return Some(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    if owner["controller"] != true {
        return Some(format!(
            "node {node:?} can only create pods with an owner reference with controller set to true"
        ));
    }
    if owner["blockOwnerDeletion"] == true {
        return Some(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    if pod["spec"]["serviceAccountName"].as_str().is_some_and(|s| !s.is_empty()) {
        return Some(format!("node {node:?} can not create pods that reference a service account"));
    }
    for v in pod["spec"]["volumes"].as_array().into_iter().flatten() {
        for (field, what) in [
            ("secret", "secrets"),
            ("configMap", "configmaps"),
            ("persistentVolumeClaim", "persistentvolumeclaims"),
        ] {
            if !v[field].is_null() {
                return Some(format!("node {node:?} can not create pods that reference {what}"));
            }
        }
    }
    None
}

fn pod_status(node: &str, request: &Request<'_>) -> Option<String> {
    let (new, old) = (request.new_object(), request.old_object());
    if old["spec"]["nodeName"] != node {
        return Some(format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    if meta::labels(new) != meta::labels(old) {
        return Some(format!("node {node:?} cannot update labels through pod status"));
    }
    None
}

/// Labels that kubelets must not set: of Kubernetes' domains, but not among those that are theirs.
fn forbidden_labels(keys: impl Iterator<Item = String>) -> Vec<String> {
    let reserved = |key: &String| {
        let Some((domain, _)) = key.split_once('/') else { return false };
        let in_domain = |d: &str| domain == d || domain.ends_with(&format!(".{d}"));
        if in_domain("node-restriction.kubernetes.io") {
            return true;
        }
        if !in_domain("kubernetes.io") && !in_domain("k8s.io") {
            return false;
        }
        let own = in_domain("kubelet.kubernetes.io") || in_domain("node.kubernetes.io");
        !own && !OWN_LABELS.contains(&key.as_str())
    };
    let mut out: Vec<String> = keys.filter(reserved).collect();
    out.sort();
    out
}

fn own_node(node: &str, request: &Request<'_>) -> Option<String> {
    let (new, old) = (request.new_object(), request.old_object());
    if request.shown_name() != node {
        return Some(format!("node {node:?} is not allowed to modify node {:?}", request.shown_name()));
    }
    if request.operation == Operation::Create {
        let bad = forbidden_labels(meta::labels(new).into_keys());
        if !bad.is_empty() {
            return Some(format!(
                "node {node:?} is not allowed to set the following labels: {}",
                bad.join(", ")
            ));
        }
        if !meta::owner_references(new).is_empty() {
            return Some(format!("node {node:?} is not allowed to modify ownerReferences"));
        }
    }
    if request.operation == Operation::Update {
        let taints = |n: &Value| n["spec"]["taints"].as_array().cloned().unwrap_or_default();
        if taints(new) != taints(old) {
            return Some(format!("node {node:?} is not allowed to modify taints"));
        }
        let (after, before) = (meta::labels(new), meta::labels(old));
        let changed = after.keys().chain(before.keys()).filter(|k| after.get(*k) != before.get(*k));
        let mut bad = forbidden_labels(changed.cloned());
        bad.dedup();
        if !bad.is_empty() {
            return Some(format!("is not allowed to modify labels: {}", bad.join(", ")));
        }
        if meta::owner_references(new) != meta::owner_references(old) {
            return Some(format!("node {node:?} is not allowed to modify ownerReferences"));
        }
    }
    None
}

fn lease(node: &str, request: &Request<'_>) -> Option<String> {
    if request.namespace != "kube-node-lease" {
        return Some("can only access leases in the \"kube-node-lease\" system namespace".to_string());
    }
    let text = "can only access node lease with the same name as the requesting node";
    (request.shown_name() != node).then(|| text.to_string())
}

fn slice(node: &str, request: &Request<'_>) -> Option<String> {
    let object = request.object.as_ref().or(request.old).unwrap_or(&Value::Null);
    let own = object["spec"]["nodeName"] == node;
    let verb = match request.operation {
        Operation::Create => "create",
        Operation::Delete => "delete",
        _ => return None,
    };
    (!own).then(|| format!("can only {verb} ResourceSlice with the same NodeName as the requesting node"))
}

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Connect
    }

    // Upstream looks before other plugins change the object.
    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        match node_name(request.user) {
            None => Ok(()),
            Some("") => {
                let user = &request.user.username;
                Err(request.forbidden(format!("could not determine node from user {user:?}")))
            }
            Some(node) => self.judge(node, request).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::testing::Case;
    use serde_json::json;

    #[test]
    fn labels() {
        let bad = |k: &str| !forbidden_labels(std::iter::once(k.to_string())).is_empty();
        for (key, want) in [
            ("kubernetes.io/hostname", false),
            ("node.kubernetes.io/anything", false),
            ("kubelet.kubernetes.io/x", false),
            ("acme.com/x", false),
            ("plain", false),
            ("node-role.kubernetes.io/control-plane", true),
            ("node-restriction.kubernetes.io/x", true),
            ("foo.k8s.io/x", true),
        ] {
            assert_eq!(bad(key), want, "{key}");
        }
    }

    #[test]
    fn nodes() {
        let mut case = Case::new(Operation::Update, "", "Node", "nodes");
        let node = |taints: Value| json!({"metadata": {"name": "a"}, "spec": {"taints": taints}});
        case.object = Some(node(json!([{"key": "x"}])));
        case.old = Some(node(json!([])));
        assert_eq!(own_node("a", &case.request()).unwrap(), "node \"a\" is not allowed to modify taints");
        assert_eq!(own_node("b", &case.request()).unwrap(), "node \"b\" is not allowed to modify node \"a\"");
        case.old = case.object.clone();
        assert_eq!(own_node("a", &case.request()), None);
    }

    #[test]
    fn mirror_pods() {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "a"}});
        assert!(new_pod("a", &pod).unwrap().ends_with("can only create mirror pods"));
        meta::set_annotation(&mut pod, MIRROR, "x");
        assert!(new_pod("a", &pod).unwrap().ends_with("an owner reference set to itself"));
        pod["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "Node", "name": "a", "controller": true}]);
        assert_eq!(new_pod("a", &pod), None);
        assert!(new_pod("b", &pod).is_some());
        pod["spec"]["volumes"] = json!([{"secret": {}}]);
        assert_eq!(new_pod("a", &pod).unwrap(), "node \"a\" can not create pods that reference secrets");
    }

    #[test]
    fn certificates_are_for_own_pods() {
        let uid = |uid: &str| json!({"metadata": {"uid": uid}});
        let mut pod = uid("u1");
        pod["spec"] = json!({"nodeName": "a", "serviceAccountName": "s"});
        let spec = json!({
            "podName": "p", "podUID": "u1", "serviceAccountName": "s", "serviceAccountUID": "u2",
            "nodeName": "a", "nodeUID": "u3",
        });
        let judged = |node: &str, field: &str, value: &str| {
            let mut spec = spec.clone();
            spec[field] = json!(value);
            mismatch(node, &spec, &pod, &uid("u2"), &uid("u3"))
        };
        assert_eq!(judged("a", "podName", "p"), None);
        for (node, field, value, part) in [
            ("b", "podName", "p", "on itself"),
            ("b", "nodeName", "b", "is not running on"),
            ("a", "serviceAccountName", "t", "does not run as"),
            ("a", "podUID", "x", "spec.podUID (x) does not match"),
            ("a", "serviceAccountUID", "x", "spec.serviceAccountUID"),
            ("a", "nodeUID", "x", "spec.nodeUID"),
        ] {
            let cause = judged(node, field, value).unwrap();
            assert!(cause.contains(part), "{cause}");
        }
    }

    #[test]
    fn own_leases() {
        let mut case = Case::new(Operation::Create, "coordination.k8s.io", "Lease", "leases");
        case.object = Some(json!({"metadata": {"name": "a", "namespace": "kube-node-lease"}}));
        assert_eq!(lease("a", &case.request()), None);
        assert!(lease("b", &case.request()).is_some());
    }
}
