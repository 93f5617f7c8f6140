//! Approves the certificate requests of nodes: client certificates by upstream's rules, serving certificates for the
//! node's own addresses, and the certificates of the node's other parts.

use std::sync::Arc;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use knarr_client::{Event, Store, WorkQueue};
use knarr_pki::Request;
use kube::ResourceExt;
use kube::api::PostParams;

use crate::context::{Action, Controller, Ctx, work};
use crate::csr;
use crate::error::{During, Error};

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "certificatesigningrequest-approving-controller",
    account: "certificate-controller",
    start: |ctx| Box::pin(run(ctx)),
};

/// Group of those who join with one of our own tokens: they must have shown a node's password.
const JOIN_GROUP: &str = "system:bootstrappers:knarr:default-node-token";
/// The node whose password was shown.
const NODE_EXTRA: &str = "knarr.io/node-name";

/// What is to be done with a request.
#[derive(Debug, PartialEq)]
enum Plan {
    /// Not ours to decide.
    Leave,
    /// Approved if the requester may create this subresource of certificate requests.
    Ask { subresource: &'static str, message: &'static str },
    /// Approved.
    Approve { message: &'static str },
    /// Not yet; the text says what is missing.
    Wait(String),
}

fn in_group(csr: &CertificateSigningRequest, group: &str) -> bool {
    csr.spec.groups.iter().flatten().any(|g| g == group)
}

/// A request with a join token counts only for the node whose password came with it.
fn bound_to(csr: &CertificateSigningRequest, node: &str) -> bool {
    let shown = csr.spec.extra.as_ref().and_then(|e| e.get(NODE_EXTRA));
    match shown {
        Some(names) => names.iter().all(|n| n == node),
        None => !in_group(csr, JOIN_GROUP),
    }
}

fn decide(csr: &CertificateSigningRequest, request: &Request, node: Option<&Node>) -> Plan {
    let usages = csr::usages(csr);
    let user = csr.spec.username.as_deref().unwrap_or_default();
    let is_node = user.starts_with("system:node:") && in_group(csr, "system:nodes");
    match csr.spec.signer_name.as_str() {
        csr::KUBELET_CLIENT if csr::kubelet_client(request, &usages).is_ok() => {
            if user == request.common_name {
                return Plan::Ask {
                    subresource: "selfnodeclient",
                    message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
                };
            }
            if !bound_to(csr, csr::node_of(request).unwrap_or_default()) {
                return Plan::Wait(format!("{user} has not shown the password of {}", request.common_name));
            }
            Plan::Ask {
                subresource: "nodeclient",
                message: "Auto approving kubelet client certificate after SubjectAccessReview.",
            }
        }
        csr::KUBELET_SERVING if csr::kubelet_serving(request, &usages).is_ok() => {
            if !is_node || user != request.common_name {
                return Plan::Leave;
            }
            match node.and_then(|n| foreign_name(request, n)) {
                _ if node.is_none() => Plan::Wait(format!("{user} is not registered")),
                Some(name) => Plan::Wait(format!("{name} is no address of {user}")),
                None => Plan::Approve {
                    message: "Auto approving kubelet serving certificate for the node's addresses.",
                },
            }
        }
        csr::NODE_COMPONENT if csr::node_component(request, &usages).is_ok() && is_node => {
            Plan::Approve { message: "Auto approving certificate of a part of the node." }
        }
        _ => Plan::Leave,
    }
}

/// A name or address in the request that the node does not have.
fn foreign_name(request: &Request, node: &Node) -> Option<String> {
    let addresses = node.status.as_ref().and_then(|s| s.addresses.as_ref());
    let has = |name: &str| addresses.into_iter().flatten().any(|a| a.address == name);
    let dns = request.dns.iter().cloned();
    dns.chain(request.ips.iter().map(ToString::to_string)).find(|name| !has(name))
}

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let queue = WorkQueue::<String>::new(ctx.shutdown.clone());
    let (requests, nodes) = (ctx.store::<CertificateSigningRequest>(), ctx.store::<Node>());
    {
        let queue = queue.clone();
        requests.on_event(move |event| {
            if let Event::Applied { new, .. } = event
                && undecided(new)
            {
                queue.add(new.name_any());
            }
        });
    }
    requests.synced().await;
    nodes.synced().await;
    let run = ctx.clone();
    work(ctx, queue, 1, move |name| {
        let (ctx, requests, nodes) = (run.clone(), requests.clone(), nodes.clone());
        async move { reconcile(&ctx, &requests, &nodes, &name).await }
    })
    .await;
    Ok(())
}

fn undecided(request: &CertificateSigningRequest) -> bool {
    !csr::issued(request) && !csr::has(request, "Approved") && !csr::has(request, "Denied")
}

async fn reconcile(
    ctx: &Ctx,
    requests: &Store<CertificateSigningRequest>,
    nodes: &Store<Node>,
    name: &str,
) -> Result<Action, Error> {
    let Some(object) = requests.get("", name).filter(|o| undecided(o)) else { return Ok(Action::Done) };
    // What cannot be read is nobody's node.
    let Ok(request) = csr::request_of(&object) else { return Ok(Action::Done) };
    let node = csr::node_of(&request).and_then(|n| nodes.get("", n));
    let message = match decide(&object, &request, node.as_deref()) {
        Plan::Leave => return Ok(Action::Done),
        Plan::Wait(why) => {
            tracing::debug!(request = name, why, "certificate request is not approved yet");
            return Ok(Action::Backoff);
        }
        Plan::Approve { message } => message,
        Plan::Ask { subresource, message } => {
            if !allowed(ctx, &object, subresource).await? {
                tracing::debug!(request = name, subresource, "the requester may not have this approved");
                return Ok(Action::Backoff);
            }
            message
        }
    };
    let mut next = (*object).clone();
    csr::add(&mut next, "Approved", "AutoApproved", message.to_owned());
    let api = ctx.api_all::<CertificateSigningRequest>();
    match api.replace_subresource("approval", name, &PostParams::default(), &next).await.during(
        "approve",
        "CertificateSigningRequest",
        "",
        name,
    ) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(Action::Done),
    }
}

/// Whether the requester may have requests of this sort approved.
async fn allowed(ctx: &Ctx, csr: &CertificateSigningRequest, subresource: &str) -> Result<bool, Error> {
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: csr.spec.username.clone(),
            uid: csr.spec.uid.clone(),
            groups: csr.spec.groups.clone(),
            extra: csr.spec.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".to_owned()),
                version: Some("*".to_owned()),
                resource: Some("certificatesigningrequests".to_owned()),
                verb: Some("create".to_owned()),
                subresource: Some(subresource.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let api = ctx.api_all::<SubjectAccessReview>();
    let answer = api.create(&PostParams::default(), &review).await.during(
        "create",
        "SubjectAccessReview",
        "",
        subresource,
    )?;
    Ok(answer.status.is_some_and(|s| s.allowed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csr::tests::object;
    use knarr_pki::Leaf;
    use serde_json::json;

    fn asked(
        mut csr: CertificateSigningRequest,
        user: &str,
        groups: &[&str],
        bound: Option<&str>,
    ) -> CertificateSigningRequest {
        csr.spec.username = Some(user.into());
        csr.spec.groups = Some(groups.iter().map(|g| (*g).to_owned()).collect());
        csr.spec.extra = bound.map(|n| [(NODE_EXTRA.to_owned(), vec![n.to_owned()])].into());
        csr
    }

    #[test]
    fn who_gets_a_client_certificate() {
        let uses = &["digital signature", "client auth"];
        let leaf = Leaf::client("system:node:a", &["system:nodes"]);
        let plan = |signer: &str, user: &str, groups: &[&str], bound: Option<&str>| {
            let csr = asked(object(signer, &leaf, uses), user, groups, bound);
            match decide(&csr, &csr::request_of(&csr).unwrap(), None) {
                Plan::Ask { subresource, .. } => subresource.to_owned(),
                Plan::Leave => "leave".to_owned(),
                Plan::Wait(_) => "wait".to_owned(),
                Plan::Approve { .. } => "approve".to_owned(),
            }
        };
        let kubelet = csr::KUBELET_CLIENT;
        for (signer, user, groups, bound, want) in [
            (kubelet, "system:node:a", &["system:nodes"][..], None, "selfnodeclient"),
            (kubelet, "system:node:b", &["system:nodes"], None, "nodeclient"),
            (kubelet, "system:bootstrap:abcdef", &["system:bootstrappers"], None, "nodeclient"),
            (kubelet, "system:knarr:node", &[JOIN_GROUP], Some("a"), "nodeclient"),
            (kubelet, "system:knarr:node", &[JOIN_GROUP], Some("b"), "wait"),
            (kubelet, "system:knarr:node", &[JOIN_GROUP], None, "wait"),
            (csr::CLIENT, "system:node:a", &["system:nodes"], None, "leave"),
            (csr::NODE_COMPONENT, "system:node:a", &["system:nodes"], None, "leave"),
        ] {
            assert_eq!(plan(signer, user, groups, bound), want, "{signer} {user} {bound:?}");
        }
    }

    #[test]
    fn serving_certificates_name_only_the_nodes_own_addresses() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "a"}, "status": {"addresses": [
            {"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "a"}]}}))
        .unwrap();
        let uses = &["digital signature", "server auth"];
        let plan = |user: &str, dns: &[&str], ips: &[&str], node: Option<&Node>| {
            let mut leaf = Leaf::server(
                "system:node:a",
                dns.iter().map(|d| (*d).to_owned()).collect(),
                ips.iter().map(|i| i.parse().unwrap()).collect(),
            );
            leaf.organizations = vec!["system:nodes".into()];
            let csr = asked(object(csr::KUBELET_SERVING, &leaf, uses), user, &["system:nodes"], None);
            decide(&csr, &csr::request_of(&csr).unwrap(), node)
        };
        let a = "system:node:a";
        assert!(matches!(plan(a, &["a"], &["10.0.0.1"], Some(&node)), Plan::Approve { .. }));
        assert_eq!(plan(a, &["b"], &[], Some(&node)), Plan::Wait("b is no address of system:node:a".into()));
        assert!(matches!(plan(a, &["a"], &["10.0.0.2"], Some(&node)), Plan::Wait(_)));
        assert!(matches!(plan(a, &["a"], &[], None), Plan::Wait(_)));
        assert_eq!(plan("system:node:b", &["a"], &[], Some(&node)), Plan::Leave);
        let csr = asked(
            object(
                csr::NODE_COMPONENT,
                &Leaf::client("system:kube-proxy", &[]),
                &["digital signature", "client auth"],
            ),
            a,
            &["system:nodes"],
            None,
        );
        assert!(matches!(decide(&csr, &csr::request_of(&csr).unwrap(), None), Plan::Approve { .. }));
    }
}
