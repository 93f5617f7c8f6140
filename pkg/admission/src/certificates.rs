//! CertificateApproval, CertificateSigning, ClusterTrustBundleAttest and CertificateSubjectRestriction.

use async_trait::async_trait;
use base64::Engine as _;
use http::Method;
use knarr_machinery::{ApiError, UserInfo};
use serde_json::{Value, json};

use crate::Plugin;
use crate::request::{Operation, Request};
use crate::state::{Api, Context};

const RESOURCE: (&str, &str) = ("certificates.k8s.io", "certificatesigningrequests");

fn signer(csr: &Value) -> &str {
    csr["spec"]["signerName"].as_str().unwrap_or_default()
}

/// The names under which a right on a signer may be given: its own, and `domain/*`.
fn names_of(signer: &str) -> Vec<String> {
    let domain = signer.split_once('/').map_or(signer, |(d, _)| d);
    vec![signer.to_string(), format!("{domain}/*")]
}

async fn may(api: &Api, user: &UserInfo, verb: &str, signer: &str) -> Result<bool, ApiError> {
    for name in names_of(signer) {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": user.username, "uid": user.uid, "groups": user.groups, "extra": user.extra,
                "resourceAttributes": {"group": "certificates.k8s.io", "version": "*", "resource": "signers",
                    "name": name, "verb": verb},
            },
        });
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let answer = api.send(Method::POST, path, &review).await?;
        if answer["status"]["allowed"] == true {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Only who may approve for a signer approves.
pub(crate) struct CertificateApproval {
    api: Api,
}

impl CertificateApproval {
    pub(crate) fn new(context: &Context) -> Self {
        Self { api: context.api.clone() }
    }
}

#[async_trait]
impl Plugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), ApiError> {
        if request.subresource != Some("approval") || !request.is(RESOURCE.0, RESOURCE.1) {
            return Ok(());
        }
        let signer = signer(request.old_object());
        if may(&self.api, request.user, "approve", signer).await? {
            return Ok(());
        }
        Err(request.forbidden(format!("user not permitted to approve requests with signerName {signer:?}")))
    }
}

/// Only who may sign for a signer writes certificates.
pub(crate) struct CertificateSigning {
    api: Api,
}

impl CertificateSigning {
    pub(crate) fn new(context: &Context) -> Self {
        Self { api: context.api.clone() }
    }
}

fn signs(new: &Value, old: &Value) -> bool {
    let failed = |csr: &Value| {
        let all = csr["status"]["conditions"].as_array().into_iter().flatten();
        all.filter(|c| c["type"] == "Failed").cloned().collect::<Vec<_>>()
    };
    new["status"]["certificate"] != old["status"]["certificate"] || failed(new) != failed(old)
}

#[async_trait]
impl Plugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), ApiError> {
        let (new, old) = (request.new_object(), request.old_object());
        // Upstream asks for pods' certificates where it writes them; the right is the same.
        let signed = (request.is(RESOURCE.0, RESOURCE.1) && signs(new, old))
            || (request.is(RESOURCE.0, "podcertificaterequests")
                && new["status"]["certificateChain"] != old["status"]["certificateChain"]);
        if request.subresource != Some("status") || !signed {
            return Ok(());
        }
        let signer = signer(old);
        if may(&self.api, request.user, "sign", signer).await? {
            return Ok(());
        }
        Err(request.forbidden(format!("user not permitted to sign requests with signerName {signer:?}")))
    }
}

/// Only who may attest for a signer publishes trust bundles in its name.
pub(crate) struct ClusterTrustBundleAttest {
    api: Api,
}

impl ClusterTrustBundleAttest {
    pub(crate) fn new(context: &Context) -> Self {
        Self { api: context.api.clone() }
    }
}

#[async_trait]
impl Plugin for ClusterTrustBundleAttest {
    fn name(&self) -> &'static str {
        "ClusterTrustBundleAttest"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), ApiError> {
        if !request.is_main(RESOURCE.0, "clustertrustbundles") {
            return Ok(());
        }
        let (new, old) = (signer(request.new_object()), signer(request.old_object()));
        if !old.is_empty() && new != old {
            return Err(request.forbidden("changing signerName is forbidden"));
        }
        if new.is_empty() || may(&self.api, request.user, "attest", new).await? {
            return Ok(());
        }
        Err(request.forbidden(format!("user not permitted to attest for signerName {new:?}")))
    }
}

/// Nobody asks for a client certificate of `system:masters`.
pub(crate) struct CertificateSubjectRestriction;

/// The organizations in a base64-coded PEM request.
fn organizations(request: &str) -> Result<Vec<String>, String> {
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::prelude::FromDer;
    let engine = base64::engine::general_purpose::STANDARD;
    let pem = engine.decode(request).map_err(|e| e.to_string())?;
    let (_, block) = x509_parser::pem::parse_x509_pem(&pem).map_err(|e| e.to_string())?;
    let (_, csr) = X509CertificationRequest::from_der(&block.contents).map_err(|e| e.to_string())?;
    let names = csr.certification_request_info.subject.iter_organization();
    Ok(names.filter_map(|o| o.as_str().ok().map(str::to_string)).collect())
}

#[async_trait]
impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), ApiError> {
        let csr = request.new_object();
        if !request.is_main(RESOURCE.0, RESOURCE.1) || signer(csr) != "kubernetes.io/kube-apiserver-client" {
            return Ok(());
        }
        let text = csr["spec"]["request"].as_str().unwrap_or_default();
        let organizations =
            organizations(text).map_err(|e| request.forbidden(format!("failed to parse CSR: {e}")))?;
        if organizations.iter().any(|o| o == "system:masters") {
            return Err(request.forbidden(
                "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        assert_eq!(
            names_of("kubernetes.io/kubelet-serving"),
            ["kubernetes.io/kubelet-serving", "kubernetes.io/*"]
        );
        let csr = |c: Value| json!({"status": {"certificate": c}});
        assert!(signs(&csr(json!("x")), &csr(Value::Null)));
        assert!(!signs(&csr(json!("x")), &csr(json!("x"))));
        let failed = json!({"status": {"conditions": [{"type": "Failed"}]}});
        assert!(signs(&failed, &json!({})));
        assert!(organizations("eA==").is_err());
    }
}
