//! Upstream's podcertificaterequest.go: the API.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use time::{Duration, OffsetDateTime};

use super::signer::stamp;
use crate::Result;
use crate::apimachinery::strict::{Resource, test_resource};
use crate::context::Context;
use crate::kinds::POD_CERTIFICATE_REQUESTS;

tests! {
    "[sig-auth] PodCertificateRequest API [Privileged:ClusterAdmin] should support PodCertificateRequest API operations" => operations,
}

async fn operations(cx: Context) -> Result<()> {
    let key = KeyPair::generate()?;
    let request = CertificateParams::default().serialize_request(&key)?;
    let begin = OffsetDateTime::now_utc().replace_nanosecond(0)? - Duration::minutes(1);
    let end = begin + Duration::hours(1);
    let mut params = CertificateParams::default();
    params.not_before = begin;
    params.not_after = end;
    let chain = params.self_signed(&key)?.pem().replace("\r\n", "\n");
    let spec = json!({
        "signerName": format!("example.com/e2e-{}", cx.namespace()),
        "podName": "test-pod", "podUID": "12345678-1234-1234-1234-123456789012",
        "serviceAccountName": "default", "serviceAccountUID": "12345678-1234-1234-1234-123456789013",
        "nodeName": "test-node", "nodeUID": "12345678-1234-1234-1234-123456789014",
        "maxExpirationSeconds": 86400,
        "stubPKCS10Request": STANDARD.encode(request.der()),
    });
    let status = json!({
        "certificateChain": chain,
        "notBefore": stamp(begin), "notAfter": stamp(end), "beginRefreshAt": stamp(begin + Duration::minutes(15)),
        "conditions": [{
            "type": "Issued", "status": "True", "reason": "E2E", "message": "Issued by E2E test patch",
            "lastTransitionTime": stamp(OffsetDateTime::now_utc()),
        }],
    });
    let tested = Resource {
        kind: &POD_CERTIFICATE_REQUESTS,
        object: json!({"metadata": {"name": cx.unique("e2e-example-pcr")}, "spec": spec}),
        patch: json!({"metadata": {"labels": {"test.podcertificaterequest.example.com": "test"}}}),
        status,
    };
    test_resource(&cx, &tested).await
}
