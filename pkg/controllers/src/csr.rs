//! What certificate requests are: the rules of each signer, shared by approver and signer.

use std::sync::Arc;

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use knarr_client::{Event, Store, WorkQueue};
use knarr_pki::Request;
use kube::ResourceExt;

use crate::context::Ctx;

/// Client certificates of anybody; approved by hand.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Client certificates of kubelets.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Serving certificates of kubelets.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// What older clients ask.
pub const LEGACY: &str = "kubernetes.io/legacy-unknown";
/// Client certificates of the other parts of our node: proxy, DNS, network policies.
pub const NODE_COMPONENT: &str = "knarr.io/node-component";
/// Whom those may name.
pub const COMPONENTS: &[&str] = &["system:knarr:dns", "system:knarr:network-policy", "system:kube-proxy"];

const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

/// All requests, and the queue that the name of each goes through when it is new or changes.
pub(crate) async fn followed(ctx: &Ctx) -> (Arc<Store<CertificateSigningRequest>>, WorkQueue<String>) {
    let queue = WorkQueue::<String>::new(ctx.shutdown.clone());
    let requests = ctx.store::<CertificateSigningRequest>();
    {
        let queue = queue.clone();
        requests.on_event(move |event| {
            if let Event::Applied { new, .. } = event {
                queue.add(new.name_any());
            }
        });
    }
    requests.synced().await;
    (requests, queue)
}

/// The request inside an object.
pub fn request_of(csr: &CertificateSigningRequest) -> Result<Request, String> {
    let text = String::from_utf8(csr.spec.request.0.clone()).map_err(|e| e.to_string())?;
    Request::parse(&text).map_err(|e| e.to_string())
}

/// Whether the object has a condition of this type.
pub fn has(csr: &CertificateSigningRequest, kind: &str) -> bool {
    condition(csr, kind).is_some()
}

/// The condition of this type.
pub fn condition<'a>(
    csr: &'a CertificateSigningRequest,
    kind: &str,
) -> Option<&'a CertificateSigningRequestCondition> {
    csr.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// Adds a condition that is true.
pub fn add(csr: &mut CertificateSigningRequest, kind: &str, reason: &str, message: String) {
    let status = csr.status.get_or_insert_default();
    status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        ..CertificateSigningRequestCondition::default()
    });
}

/// Whether the certificate is there.
pub fn issued(csr: &CertificateSigningRequest) -> bool {
    csr.status.as_ref().and_then(|s| s.certificate.as_ref()).is_some_and(|c| !c.0.is_empty())
}

/// The usages asked for, sorted.
pub fn usages(csr: &CertificateSigningRequest) -> Vec<String> {
    let mut usages = csr.spec.usages.clone().unwrap_or_default();
    usages.sort();
    usages.dedup();
    usages
}

fn exactly(usages: &[String], purpose: &str) -> bool {
    let all = ["digital signature", "key encipherment", purpose];
    let mut full: Vec<&str> = all.to_vec();
    full.sort_unstable();
    let mut short = vec!["digital signature", purpose];
    short.sort_unstable();
    usages == full || usages == short
}

/// The node that a kubelet's request names.
pub fn node_of(request: &Request) -> Option<&str> {
    request.common_name.strip_prefix(NODE_PREFIX).filter(|n| !n.is_empty())
}

fn nameless(request: &Request) -> bool {
    request.dns.is_empty() && request.ips.is_empty() && request.other_names == 0
}

/// Checks a kubelet's client request.
pub fn kubelet_client(request: &Request, usages: &[String]) -> Result<(), &'static str> {
    if request.organizations != [NODES] {
        return Err("subject organization is not system:nodes");
    }
    if !nameless(request) {
        return Err("DNS, IP, email and URI subjectAltNames are not allowed");
    }
    if node_of(request).is_none() {
        return Err("subject common name does not begin with system:node: ");
    }
    if !exactly(usages, "client auth") {
        return Err("usages did not match [digital signature, key encipherment, client auth]");
    }
    Ok(())
}

/// Checks a kubelet's serving request.
pub fn kubelet_serving(request: &Request, usages: &[String]) -> Result<(), &'static str> {
    if request.organizations != [NODES] {
        return Err("subject organization is not system:nodes");
    }
    if request.dns.is_empty() && request.ips.is_empty() {
        return Err("DNS or IP subjectAltName is required");
    }
    if request.other_names != 0 {
        return Err("email and URI subjectAltNames are not allowed");
    }
    if node_of(request).is_none() {
        return Err("subject common name does not begin with system:node: ");
    }
    if !exactly(usages, "server auth") {
        return Err("usages did not match [digital signature, key encipherment, server auth]");
    }
    Ok(())
}

/// Checks a request of a part of our node.
pub fn node_component(request: &Request, usages: &[String]) -> Result<(), &'static str> {
    if !COMPONENTS.contains(&request.common_name.as_str()) || !request.organizations.is_empty() {
        return Err("subject is not one of the node's components");
    }
    if !nameless(request) {
        return Err("DNS, IP, email and URI subjectAltNames are not allowed");
    }
    if !exactly(usages, "client auth") {
        return Err("usages did not match [digital signature, key encipherment, client auth]");
    }
    Ok(())
}

/// Checks a request for a client certificate of anybody.
pub fn client(usages: &[String]) -> Result<(), &'static str> {
    let allowed = ["digital signature", "key encipherment", "client auth"];
    if !usages.iter().all(|u| allowed.contains(&u.as_str())) || !usages.iter().any(|u| u == "client auth") {
        return Err("invalid usages for client certificate");
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use knarr_pki::{Leaf, request};

    /// A request object as the API stores it.
    pub(crate) fn object(signer: &str, leaf: &Leaf, usages: &[&str]) -> CertificateSigningRequest {
        let (pem, _) = request::make(leaf).unwrap();
        let mut csr = CertificateSigningRequest::default();
        csr.metadata.name = Some("csr-x".into());
        csr.spec.signer_name = signer.into();
        csr.spec.request = ByteString(pem.into_bytes());
        csr.spec.usages = Some(usages.iter().map(|u| (*u).to_owned()).collect());
        csr
    }

    const CLIENT_USAGES: &[&str] = &["digital signature", "client auth"];
    const SERVER_USAGES: &[&str] = &["server auth", "digital signature", "key encipherment"];

    #[test]
    fn rules_of_the_signers() {
        let node = |groups: &[&str]| Leaf::client("system:node:a", groups);
        let mut named = node(&["system:nodes"]);
        named.dns = vec!["a".into()];
        let check =
            |leaf: &Leaf, uses: &[&str], rule: fn(&Request, &[String]) -> Result<(), &'static str>| {
                let csr = object("x.y/z", leaf, uses);
                rule(&request_of(&csr).unwrap(), &usages(&csr)).is_ok()
            };
        assert!(check(&node(&["system:nodes"]), CLIENT_USAGES, kubelet_client));
        assert!(check(
            &node(&["system:nodes"]),
            &["client auth", "key encipherment", "digital signature"],
            kubelet_client
        ));
        assert!(!check(&node(&["system:masters"]), CLIENT_USAGES, kubelet_client));
        assert!(!check(&node(&[]), CLIENT_USAGES, kubelet_client));
        assert!(!check(&node(&["system:nodes"]), SERVER_USAGES, kubelet_client));
        assert!(!check(&named, CLIENT_USAGES, kubelet_client));
        assert!(!check(&Leaf::client("a", &["system:nodes"]), CLIENT_USAGES, kubelet_client));
        assert!(check(&named, SERVER_USAGES, kubelet_serving));
        assert!(!check(&named, CLIENT_USAGES, kubelet_serving));
        assert!(!check(&node(&["system:nodes"]), SERVER_USAGES, kubelet_serving));
        assert!(check(&Leaf::client("system:kube-proxy", &[]), CLIENT_USAGES, node_component));
        assert!(check(&Leaf::client("system:knarr:network-policy", &[]), CLIENT_USAGES, node_component));
        assert!(!check(
            &Leaf::client("system:kube-proxy", &["system:masters"]),
            CLIENT_USAGES,
            node_component
        ));
        assert!(!check(&Leaf::client("admin", &[]), CLIENT_USAGES, node_component));
        assert!(client(&["client auth".into()]).is_ok());
        assert!(client(&["client auth".into(), "server auth".into()]).is_err());
        assert!(client(&["digital signature".into()]).is_err());
    }
}
