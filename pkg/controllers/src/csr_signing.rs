//! Signs approved certificate requests of the signers that are ours.

use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use knarr_client::Store;
use knarr_pki::{Ca, Request};
use kube::api::PostParams;

use crate::context::{Action, Controller, Ctx, work};
use crate::csr;
use crate::error::{During, Error};

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "certificatesigningrequest-signing-controller",
    account: "certificate-controller",
    start: |ctx| Box::pin(run(ctx)),
};

/// How long certificates live at most, and unless another time is asked for.
const LONGEST_SECONDS: i64 = 365 * 86_400;
/// Nothing shorter is issued.
const SHORTEST_SECONDS: i64 = 600;

/// The authorities that sign.
#[derive(Debug, Clone)]
pub struct Authorities {
    /// Of client certificates.
    pub client: Ca,
    /// Of serving certificates.
    pub server: Ca,
}

/// Which authority signs for a signer, after its rules have been checked. None: the signer is not ours.
fn authority<'a>(
    authorities: &'a Authorities,
    signer: &str,
    request: &Request,
    usages: &[String],
) -> Option<Result<&'a Ca, &'static str>> {
    let checked = match signer {
        csr::CLIENT => csr::client(usages),
        csr::KUBELET_CLIENT => csr::kubelet_client(request, usages),
        csr::NODE_COMPONENT => csr::node_component(request, usages),
        csr::KUBELET_SERVING => {
            return Some(csr::kubelet_serving(request, usages).map(|()| &authorities.server));
        }
        csr::LEGACY => Ok(()),
        _ => return None,
    };
    Some(checked.map(|()| &authorities.client))
}

fn seconds(csr: &CertificateSigningRequest) -> i64 {
    let asked = csr.spec.expiration_seconds.map_or(LONGEST_SECONDS, i64::from);
    asked.clamp(SHORTEST_SECONDS, LONGEST_SECONDS)
}

/// The object with a certificate or a failure; None when there is nothing to do.
fn decide(csr: &CertificateSigningRequest, authorities: &Authorities) -> Option<CertificateSigningRequest> {
    let waiting = csr::has(csr, "Approved")
        && !csr::has(csr, "Denied")
        && !csr::has(csr, "Failed")
        && !csr::issued(csr);
    if !waiting {
        return None;
    }
    let usages = csr::usages(csr);
    let outcome = match csr::request_of(csr) {
        Ok(request) => match authority(authorities, &csr.spec.signer_name, &request, &usages)? {
            Ok(ca) => ca.sign_request(&request, &usages, seconds(csr)).map_err(|e| e.to_string()),
            Err(why) => Err(why.to_owned()),
        },
        Err(why) => Err(why),
    };
    let mut next = csr.clone();
    match outcome {
        Ok(pem) => next.status.get_or_insert_default().certificate = Some(ByteString(pem.into_bytes())),
        Err(why) => csr::add(&mut next, "Failed", "SignerValidationFailure", why),
    }
    Some(next)
}

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    if ctx.config.authorities.is_none() {
        tracing::info!("no authority is configured: certificate requests are not signed");
        ctx.shutdown.cancelled().await;
        return Ok(());
    }
    let (requests, queue) = csr::followed(&ctx).await;
    let run = ctx.clone();
    work(ctx, queue, 1, move |name| {
        let (ctx, requests) = (run.clone(), requests.clone());
        async move { reconcile(&ctx, &requests, &name).await }
    })
    .await;
    Ok(())
}

async fn reconcile(
    ctx: &Ctx,
    requests: &Store<CertificateSigningRequest>,
    name: &str,
) -> Result<Action, Error> {
    let next = match (&ctx.config.authorities, requests.get("", name)) {
        (Some(authorities), Some(object)) => decide(&object, authorities),
        _ => None,
    };
    let Some(next) = next else { return Ok(Action::Done) };
    let api = ctx.api_all::<CertificateSigningRequest>();
    match api.replace_status(name, &PostParams::default(), &next).await.during(
        "sign",
        "CertificateSigningRequest",
        "",
        name,
    ) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(Action::Done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csr::tests::object;
    use knarr_pki::{Leaf, rotating};

    #[test]
    fn approved_requests_are_signed_and_wrong_ones_fail() {
        let authorities =
            Authorities { client: Ca::create("client").unwrap(), server: Ca::create("server").unwrap() };
        let uses = &["digital signature", "client auth"];
        let node = Leaf::client("system:node:a", &["system:nodes"]);
        let mut csr = object(csr::KUBELET_CLIENT, &node, uses);
        assert_eq!(decide(&csr, &authorities), None);
        csr::add(&mut csr, "Approved", "x", String::new());
        csr.spec.expiration_seconds = Some(3600);
        let signed = decide(&csr, &authorities).unwrap();
        let pem = String::from_utf8(signed.status.clone().unwrap().certificate.unwrap().0).unwrap();
        assert!(rotating::is_alive(&pem));
        assert!(rotating::renewal_in(&pem).as_secs() < 2400);
        assert_eq!(decide(&signed, &authorities), None);
        let mut wrong = object(csr::KUBELET_SERVING, &node, uses);
        csr::add(&mut wrong, "Approved", "x", String::new());
        let failed = decide(&wrong, &authorities).unwrap();
        assert_eq!(
            csr::condition(&failed, "Failed").unwrap().reason.as_deref(),
            Some("SignerValidationFailure")
        );
        assert_eq!(decide(&failed, &authorities), None);
        let mut foreign = object("example.com/signer", &node, uses);
        csr::add(&mut foreign, "Approved", "x", String::new());
        assert_eq!(decide(&foreign, &authorities), None);
    }

    #[test]
    fn lifetimes_have_bounds() {
        let mut csr = CertificateSigningRequest::default();
        for (asked, want) in
            [(None, LONGEST_SECONDS), (Some(i32::MAX), LONGEST_SECONDS), (Some(1), 600), (Some(700), 700)]
        {
            csr.spec.expiration_seconds = asked;
            assert_eq!(seconds(&csr), want, "{asked:?}");
        }
    }
}
