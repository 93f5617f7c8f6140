//! The node authorizer: a kubelet may read what its own pods need, and write what is its own.
//!
//! Relations are kept per node as its pods come and go; claims are followed to volumes by a look-up.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use knarr_client::{Informers, Key, Sink};
use knarr_machinery::UserInfo;
use parking_lot::RwLock;
use serde_json::Value;
use tokio::sync::watch;

use crate::api::Api;
use crate::attributes::{Attributes, Authorizer, Decision, ResourceAttributes, RuleList};
use crate::rules::Rule;

/// A kind of object that pods refer to by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Target {
    Secret,
    ConfigMap,
    Claim,
    ServiceAccount,
    ResourceClaim,
}

/// What the pods of a node refer to: pod name to (kind, name), by namespace.
type NodePods = HashMap<Key, BTreeSet<(Target, String)>>;

/// All pods by node.
#[derive(Debug, Default)]
struct Graph {
    nodes: HashMap<String, NodePods>,
    /// Node of each pod in `nodes`.
    places: HashMap<Key, String>,
}

/// Follows all pods and keeps of them only what they refer to.
struct Relations {
    graph: RwLock<Graph>,
    complete: watch::Sender<bool>,
}

impl Sink<Pod> for Relations {
    fn keys(&self) -> BTreeSet<Key> {
        self.graph.read().places.keys().cloned().collect()
    }

    fn apply(&self, pod: Pod) {
        self.graph.write().put(&pod);
    }

    fn remove(&self, key: &Key, _last: Option<Pod>) {
        self.graph.write().remove(key);
    }

    fn complete(&self) {
        self.complete.send_replace(true);
    }
}

impl Relations {
    async fn synced(&self) {
        let mut receiver = self.complete.subscribe();
        // The sender lives in self, so waiting cannot fail.
        let _closed = receiver.wait_for(|ready| *ready).await;
    }
}

/// What a pod refers to.
fn references(name: &str, pod: &PodSpec, statuses: &Value) -> BTreeSet<(Target, String)> {
    let mut out = BTreeSet::new();
    let account = pod.service_account_name.clone().unwrap_or_default();
    if !account.is_empty() {
        out.insert((Target::ServiceAccount, account));
    }
    for s in pod.image_pull_secrets.iter().flatten() {
        out.insert((Target::Secret, s.name.clone()));
    }
    for v in pod.volumes.iter().flatten() {
        // The drivers' secret references are many and alike: they are found by name in the document.
        let doc = serde_json::to_value(v).unwrap_or_default();
        volume_references(name, &doc, &mut out);
    }
    let containers = pod.containers.iter().chain(pod.init_containers.iter().flatten());
    for c in containers {
        env_references(
            c.env.as_deref().unwrap_or_default(),
            c.env_from.as_deref().unwrap_or_default(),
            &mut out,
        );
    }
    for c in pod.ephemeral_containers.iter().flatten() {
        env_references(
            c.env.as_deref().unwrap_or_default(),
            c.env_from.as_deref().unwrap_or_default(),
            &mut out,
        );
    }
    let claims = serde_json::to_value(&pod.resource_claims).unwrap_or_default();
    let claims = claims.as_array().into_iter().flatten().chain(statuses.as_array().into_iter().flatten());
    for c in claims {
        if let Some(n) = c["resourceClaimName"].as_str() {
            out.insert((Target::ResourceClaim, n.to_string()));
        }
    }
    out
}

fn volume_references(pod: &str, volume: &Value, out: &mut BTreeSet<(Target, String)>) {
    let mut add = |target: Target, name: &Value| {
        if let Some(n) = name.as_str().filter(|n| !n.is_empty()) {
            out.insert((target, n.to_string()));
        }
    };
    add(Target::Secret, &volume["secret"]["secretName"]);
    add(Target::ConfigMap, &volume["configMap"]["name"]);
    add(Target::Claim, &volume["persistentVolumeClaim"]["claimName"]);
    if !volume["ephemeral"].is_null() {
        let name = volume["name"].as_str().unwrap_or_default();
        add(Target::Claim, &Value::from(format!("{pod}-{name}")));
    }
    for source in volume["projected"]["sources"].as_array().into_iter().flatten() {
        add(Target::Secret, &source["secret"]["name"]);
        add(Target::ConfigMap, &source["configMap"]["name"]);
    }
    for driver in volume.as_object().into_iter().flatten().map(|(_, v)| v) {
        add(Target::Secret, &driver["secretRef"]["name"]);
        add(Target::Secret, &driver["nodePublishSecretRef"]["name"]);
    }
    add(Target::Secret, &volume["azureFile"]["secretName"]);
}

fn env_references(
    env: &[k8s_openapi::api::core::v1::EnvVar],
    from: &[k8s_openapi::api::core::v1::EnvFromSource],
    out: &mut BTreeSet<(Target, String)>,
) {
    for source in env.iter().filter_map(|e| e.value_from.as_ref()) {
        if let Some(r) = &source.secret_key_ref {
            out.insert((Target::Secret, r.name.clone()));
        }
        if let Some(r) = &source.config_map_key_ref {
            out.insert((Target::ConfigMap, r.name.clone()));
        }
    }
    for source in from {
        if let Some(r) = &source.secret_ref {
            out.insert((Target::Secret, r.name.clone()));
        }
        if let Some(r) = &source.config_map_ref {
            out.insert((Target::ConfigMap, r.name.clone()));
        }
    }
}

impl Graph {
    fn key(pod: &Pod) -> Key {
        (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default())
    }

    fn node(pod: &Pod) -> &str {
        pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
    }

    fn remove(&mut self, key: &Key) {
        let Some(node) = self.places.remove(key) else { return };
        if let Some(pods) = self.nodes.get_mut(&node) {
            pods.remove(key);
            if pods.is_empty() {
                self.nodes.remove(&node);
            }
        }
    }

    fn put(&mut self, pod: &Pod) {
        let key = Self::key(pod);
        self.remove(&key);
        let (node, Some(spec)) = (Self::node(pod), &pod.spec) else { return };
        if node.is_empty() {
            return;
        }
        let statuses = pod.status.as_ref().map(|s| serde_json::to_value(&s.resource_claim_statuses));
        let statuses = statuses.and_then(Result::ok).unwrap_or_default();
        let refs = references(&key.1, spec, &statuses);
        self.places.insert(key.clone(), node.to_string());
        self.nodes.entry(node.to_string()).or_default().insert(key, refs);
    }

    fn refers(&self, node: &str, namespace: &str, target: Target, name: &str) -> bool {
        let wanted = (target, name.to_string());
        self.nodes
            .get(node)
            .is_some_and(|pods| pods.iter().any(|((ns, _), refs)| ns == namespace && refs.contains(&wanted)))
    }

    fn runs(&self, node: &str, namespace: &str, pod: &str) -> bool {
        self.nodes.get(node).is_some_and(|pods| pods.contains_key(&(namespace.to_string(), pod.to_string())))
    }
}

/// The name of the node that a user is: `system:node:<name>` in group `system:nodes`. Some("") is a node without name.
pub fn node_name(user: &UserInfo) -> Option<&str> {
    let name = user.username.strip_prefix("system:node:")?;
    user.in_group("system:nodes").then_some(name)
}

/// The node authorizer.
pub struct NodeAuthorizer {
    relations: Arc<Relations>,
    api: Api,
    rules: Vec<Rule>,
}

type Verdict = Result<(), String>;

fn no(reason: &str) -> Verdict {
    Err(reason.to_string())
}

impl NodeAuthorizer {
    /// `client` reads volumes and attachments; it must be of `system:masters`.
    ///
    /// # Errors
    /// The bootstrap facts cannot be read.
    pub fn new(informers: &Informers, client: kube::Client) -> Result<Self, String> {
        let documents = crate::bootstrap::documents()?;
        let node =
            documents.iter().find(|d| d["kind"] == "ClusterRole" && d["metadata"]["name"] == "system:node");
        let rules = node.map(crate::escalation::rules_of).ok_or("no rules for system:node")?;
        let relations = Arc::new(Relations { graph: RwLock::default(), complete: watch::channel(false).0 });
        informers.feed(relations.clone());
        Ok(Self { relations, api: Api::new(client), rules })
    }

    fn refers(&self, node: &str, r: &ResourceAttributes, target: Target) -> Verdict {
        if r.name.is_empty() {
            return no("No Object name found");
        }
        if self.relations.graph.read().refers(node, &r.namespace, target, &r.name) {
            Ok(())
        } else {
            Err(unrelated(node))
        }
    }

    fn get_only(r: &ResourceAttributes, verb: &str) -> Verdict {
        if verb != "get" {
            return no("can only get individual resources of this type");
        }
        if r.subresource.is_empty() { Ok(()) } else { no("cannot get subresource") }
    }

    fn read(&self, node: &str, r: &ResourceAttributes, verb: &str, target: Target) -> Verdict {
        if !matches!(verb, "get" | "list" | "watch") {
            return no("can only read resources of this type");
        }
        if !r.subresource.is_empty() {
            return no("cannot read subresource");
        }
        if r.namespace.is_empty() {
            return no("can only read namespaced object of this type");
        }
        self.refers(node, r, target)
    }

    fn claim(&self, node: &str, r: &ResourceAttributes, verb: &str) -> Verdict {
        if r.subresource == "status" {
            if !matches!(verb, "update" | "patch") {
                return no("can only get/update/patch this type");
            }
        } else {
            Self::get_only(r, verb)?;
        }
        self.refers(node, r, Target::Claim)
    }

    async fn volume(&self, node: &str, r: &ResourceAttributes, verb: &str) -> Verdict {
        Self::get_only(r, verb)?;
        let path = format!("/api/v1/persistentvolumes/{}", r.name);
        let found = self.api.get(&path).await.map_err(|e| format!("persistentvolumes {:?}: {e}", r.name))?;
        let claim = found.map(|v| v["spec"]["claimRef"].clone()).unwrap_or_default();
        let text = |f: &str| claim[f].as_str().unwrap_or_default();
        if self.relations.graph.read().refers(node, text("namespace"), Target::Claim, text("name")) {
            Ok(())
        } else {
            Err(unrelated(node))
        }
    }

    async fn certificate(&self, node: &str, r: &ResourceAttributes, verb: &str) -> Verdict {
        if !r.subresource.is_empty() {
            return no("cannot authorize PodCertificateRequest subresources");
        }
        match verb {
            // NodeRestriction looks at the object.
            "create" => Ok(()),
            "get" => {
                let path = format!(
                    "/apis/certificates.k8s.io/v1/namespaces/{}/podcertificaterequests/{}",
                    r.namespace, r.name
                );
                let found = self.api.get(&path).await;
                let found = found.map_err(|e| format!("podcertificaterequests {:?}: {e}", r.name))?;
                // What is not there may be known to be so.
                let own = found.is_none_or(|v| v["spec"]["nodeName"] == node);
                if own { Ok(()) } else { Err(unrelated(node)) }
            }
            "list" | "watch" if selects(r, "spec.nodeName", node) => Ok(()),
            "list" | "watch" => no("can only list/watch podcertificaterequests with nodeName field selector"),
            _ => no("can only create, get, list and watch podcertificaterequests"),
        }
    }

    async fn attachment(&self, node: &str, r: &ResourceAttributes, verb: &str) -> Verdict {
        Self::get_only(r, verb)?;
        let path = format!("/apis/storage.k8s.io/v1/volumeattachments/{}", r.name);
        let found = self.api.get(&path).await.map_err(|e| format!("volumeattachments {:?}: {e}", r.name))?;
        if found.is_some_and(|v| v["spec"]["nodeName"] == node) { Ok(()) } else { Err(unrelated(node)) }
    }

    fn account(&self, node: &str, r: &ResourceAttributes, verb: &str) -> Verdict {
        if verb == "get" && r.subresource.is_empty() {
            return self.refers(node, r, Target::ServiceAccount);
        }
        if verb != "create" || r.name.is_empty() {
            return no("can only create tokens for individual service accounts");
        }
        if r.subresource != "token" {
            return no("can only create token subresource of serviceaccount");
        }
        self.refers(node, r, Target::ServiceAccount)
    }

    fn pod(&self, node: &str, r: &ResourceAttributes, verb: &str) -> Verdict {
        match (r.subresource.as_str(), verb) {
            // NodeRestriction looks at the object.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            ("", "get") => {
                if r.name.is_empty() {
                    return no("No Object name found");
                }
                if self.relations.graph.read().runs(node, &r.namespace, &r.name) {
                    Ok(())
                } else {
                    Err(unrelated(node))
                }
            }
            ("", "list" | "watch") if selects(r, "spec.nodeName", node) => Ok(()),
            ("", "list" | "watch") => {
                // A single pod may be watched by name, as kubelets do it for get.
                let single =
                    !r.name.is_empty() && self.relations.graph.read().runs(node, &r.namespace, &r.name);
                if single { Ok(()) } else { no("can only list/watch pods with spec.nodeName field selector") }
            }
            _ => no(""),
        }
    }

    async fn resource(&self, node: &str, r: &ResourceAttributes, verb: &str) -> Option<Verdict> {
        Some(match (r.group.as_str(), r.resource.as_str()) {
            ("", "secrets") => self.read(node, r, verb, Target::Secret),
            ("", "configmaps") => self.read(node, r, verb, Target::ConfigMap),
            ("", "persistentvolumeclaims") => self.claim(node, r, verb),
            ("", "persistentvolumes") => self.volume(node, r, verb).await,
            ("resource.k8s.io", "resourceclaims") => {
                Self::get_only(r, verb).and_then(|()| self.refers(node, r, Target::ResourceClaim))
            }
            ("storage.k8s.io", "volumeattachments") => self.attachment(node, r, verb).await,
            ("", "serviceaccounts") => self.account(node, r, verb),
            ("coordination.k8s.io", "leases") => lease(node, r, verb),
            ("storage.k8s.io", "csinodes") => csi_node(node, r, verb),
            ("resource.k8s.io", "resourceslices") => slice(node, r, verb),
            ("", "nodes") => own_node(node, r, verb),
            ("", "pods") => self.pod(node, r, verb),
            ("certificates.k8s.io", "podcertificaterequests") => self.certificate(node, r, verb).await,
            _ => return None,
        })
    }
}

fn unrelated(node: &str) -> String {
    format!("no relationship found between node '{node}' and this object")
}

fn selects(r: &ResourceAttributes, field: &str, value: &str) -> bool {
    r.field_selector.as_ref().is_some_and(|s| s.exact(field) == Some(value))
}

fn lease(node: &str, r: &ResourceAttributes, verb: &str) -> Verdict {
    if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a node lease");
    }
    if r.namespace != "kube-node-lease" {
        return no("can only access leases in the \"kube-node-lease\" system namespace");
    }
    // On create the name is not known here; NodeRestriction looks at it.
    if verb != "create" && r.name != node {
        return no("can only access node lease with the same name as the requesting node");
    }
    Ok(())
}

fn csi_node(node: &str, r: &ResourceAttributes, verb: &str) -> Verdict {
    if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a CSINode");
    }
    if !r.subresource.is_empty() {
        return no("cannot authorize CSINode subresources");
    }
    if verb != "create" && r.name != node {
        return no("can only access CSINode with the same name as the requesting node");
    }
    Ok(())
}

fn slice(node: &str, r: &ResourceAttributes, verb: &str) -> Verdict {
    match verb {
        _ if !r.subresource.is_empty() => no("cannot authorize ResourceSlice subresources"),
        "create" => Ok(()),
        "list" | "watch" | "deletecollection"
            if selects(r, "nodeName", node) || selects(r, "spec.nodeName", node) =>
        {
            Ok(())
        }
        "list" | "watch" | "deletecollection" => {
            no("can only list/watch/deletecollection resourceslices with nodeName field selector")
        }
        _ => Err(unrelated(node)),
    }
}

fn own_node(node: &str, r: &ResourceAttributes, verb: &str) -> Verdict {
    match (r.subresource.as_str(), verb) {
        // NodeRestriction looks at the object.
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") => {
            let named = r.name == node || selects(r, "metadata.name", node);
            if named {
                Ok(())
            } else {
                Err(format!("node '{node}' cannot read '{}', only its own Node object", r.name))
            }
        }
        _ => no(""),
    }
}

#[async_trait]
impl Authorizer for NodeAuthorizer {
    async fn authorize(&self, a: &Attributes) -> Decision {
        let Some(node) = node_name(&a.user) else { return Decision::NoOpinion(String::new()) };
        if node.is_empty() {
            return Decision::NoOpinion(format!("unknown node for user {:?}", a.user.username));
        }
        if let Some(r) = &a.resource {
            self.relations.synced().await;
            match self.resource(node, r, &a.verb).await {
                Some(Ok(())) => return Decision::Allow(String::new()),
                Some(Err(reason)) => return Decision::NoOpinion(reason),
                None => {}
            }
        }
        if self.rules.iter().any(|rule| rule.allows(a)) {
            Decision::Allow(String::new())
        } else {
            Decision::NoOpinion(String::new())
        }
    }

    async fn rules_for(&self, user: &UserInfo, _: &str) -> RuleList {
        let errors = match node_name(user) {
            Some(_) => vec!["node authorizer does not support user rule resolution".to_string()],
            None => Vec::new(),
        };
        RuleList { incomplete: !errors.is_empty(), errors, ..RuleList::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, node: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "n"},
            "spec": {"nodeName": node, "serviceAccountName": "sa", "imagePullSecrets": [{"name": "pull"}],
                "volumes": [{"name": "a", "secret": {"secretName": "s1"}}, {"name": "b", "configMap": {"name": "c1"}},
                    {"name": "c", "projected": {"sources": [{"secret": {"name": "s2"}}, {"configMap": {"name": "c2"}}]}},
                    {"name": "d", "persistentVolumeClaim": {"claimName": "p1"}}, {"name": "e", "ephemeral": {}},
                    {"name": "f", "csi": {"driver": "x", "nodePublishSecretRef": {"name": "s3"}}}],
                "containers": [{"name": "x", "envFrom": [{"configMapRef": {"name": "c3"}}],
                    "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "s4", "key": "k"}}}]}]},
        }))
        .unwrap()
    }

    #[test]
    fn graph() {
        let mut g = Graph::default();
        g.put(&pod("p", "one"));
        for (target, names) in [
            (Target::Secret, &["pull", "s1", "s2", "s3", "s4"][..]),
            (Target::ConfigMap, &["c1", "c2", "c3"]),
            (Target::Claim, &["p1", "p-e"]),
            (Target::ServiceAccount, &["sa"]),
        ] {
            for name in names {
                assert!(g.refers("one", "n", target, name), "{name}");
                assert!(!g.refers("two", "n", target, name), "{name}");
                assert!(!g.refers("one", "other", target, name), "{name}");
            }
        }
        assert!(g.runs("one", "n", "p") && !g.runs("two", "n", "p"));
        // A pod of the same name on another node replaces it.
        g.put(&pod("p", "two"));
        assert!(g.runs("two", "n", "p") && !g.runs("one", "n", "p"));
        g.remove(&Graph::key(&pod("p", "two")));
        assert!(g.nodes.is_empty() && g.places.is_empty());
    }

    #[test]
    fn own_things() {
        let r = |name: &str, ns: &str| ResourceAttributes {
            name: name.into(),
            namespace: ns.into(),
            ..Default::default()
        };
        assert!(lease("a", &r("a", "kube-node-lease"), "update").is_ok());
        assert!(lease("a", &r("b", "kube-node-lease"), "update").is_err());
        assert!(lease("a", &r("a", "default"), "get").is_err());
        assert!(lease("a", &r("", "kube-node-lease"), "list").is_err());
        assert!(csi_node("a", &r("a", ""), "patch").is_ok());
        assert!(own_node("a", &r("a", ""), "get").is_ok());
        assert_eq!(
            own_node("a", &r("b", ""), "get").unwrap_err(),
            "node 'a' cannot read 'b', only its own Node object"
        );
        assert!(own_node("a", &r("a", ""), "delete").is_err());
        let mut list = r("", "");
        list.field_selector = knarr_machinery::fields::FieldSelector::parse("metadata.name=a").ok();
        assert!(own_node("a", &list, "watch").is_ok());
    }

    #[test]
    fn identity() {
        assert_eq!(node_name(&UserInfo::component("system:node:a", &["system:nodes"])), Some("a"));
        assert_eq!(node_name(&UserInfo::component("system:node:a", &[])), None);
        assert_eq!(node_name(&UserInfo::component("a", &["system:nodes"])), None);
    }
}
