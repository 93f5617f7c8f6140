//! Requests and their answers.

use base64::Engine as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, IsCa, Issuer,
    KeyPair,
};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use crate::testing::{check, check_sub};

const V: &str = "certificates.k8s.io/v1";
const PLURAL: &str = "podcertificaterequests";

fn der() -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

fn request(der: &[u8], more: Value) -> Value {
    let mut spec = json!({
        "signerName": "example.com/signer", "podName": "p", "podUID": "u1", "serviceAccountName": "s",
        "serviceAccountUID": "u2", "nodeName": "n", "nodeUID": "u3",
        "stubPKCS10Request": base64::engine::general_purpose::STANDARD.encode(der),
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"metadata": {"name": "req", "namespace": "default"}, "spec": spec})
}

fn authority() -> Issuer<'static, KeyPair> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Issuer::new(params, key)
}

/// A chain for the request, from two minutes before the tests' moment on.
fn chain(der: &[u8], life: Duration) -> String {
    // 2026-01-02T03:02:05Z.
    let begin = OffsetDateTime::from_unix_timestamp(1_767_322_925).unwrap();
    let mut csr = CertificateSigningRequestParams::from_der(&der.to_vec().into()).unwrap();
    csr.params.not_before = begin;
    csr.params.not_after = begin + life;
    csr.signed_by(&authority()).unwrap().pem()
}

fn answered(request: &Value, kind: &str, more: Value) -> Value {
    let mut out = request.clone();
    out["status"] = json!({"conditions": [{"type": kind, "status": "True", "reason": "R", "message": ""}]});
    out["status"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    out
}

#[test]
fn new_requests() {
    let der = der();
    check(V, PLURAL, request(&der, json!({})), &[]);
    let seconds = |n: i64| request(&der, json!({"maxExpirationSeconds": n}));
    let range = "must be in the range [3600, 7862400]";
    check(V, PLURAL, seconds(3599), &[&format!("spec.maxExpirationSeconds: Invalid value: 3599: {range}")]);
    check(V, PLURAL, seconds(7_862_400), &[]);
    let own = json!({"signerName": "kubernetes.io/x", "maxExpirationSeconds": 86_401});
    check(
        V,
        PLURAL,
        request(&der, own),
        &["spec.maxExpirationSeconds: Invalid value: 86401: must be in the range [3600, 86400]"],
    );
    check(
        V,
        PLURAL,
        request(&der, json!({"podUID": ""})),
        &["spec.podUID: Invalid value: \"\": must not be empty"],
    );
    check(
        V,
        PLURAL,
        request(b"x", json!({})),
        &["spec.stubPKCS10Request: Invalid value: \"<value omitted>\": must be a valid PKCS#10 CSR"],
    );
}

#[test]
fn answers() {
    let der = der();
    let old = request(&der, json!({}));
    let status =
        |obj: Value, expected: &[&str]| check_sub(V, PLURAL, Some("status"), obj, old.clone(), expected);
    status(answered(&old, "Denied", json!({})), &[]);
    status(
        answered(&old, "Denied", json!({"certificateChain": "x"})),
        &[
            "status: Invalid value: non-condition status fields must be empty when denying or failing the PodCertificateRequest",
        ],
    );
    status(
        answered(&old, "Other", json!({})),
        &[
            "status.conditions[0].type: Unsupported value: \"Other\": supported values: \"Denied\", \"Failed\", \"Issued\"",
        ],
    );
    let day = json!({
        "certificateChain": chain(&der, Duration::days(1)), "notBefore": "2026-01-02T03:02:05Z",
        "beginRefreshAt": "2026-01-02T20:02:05Z", "notAfter": "2026-01-03T03:02:05Z",
    });
    status(answered(&old, "Issued", day.clone()), &[]);
    let with = |key: &str, value: &str| {
        let mut more = day.clone();
        more[key] = json!(value);
        answered(&old, "Issued", more)
    };
    status(
        with("notAfter", "2026-01-03T04:02:05Z"),
        &[
            "status.notAfter: Invalid value: \"2026-01-03T04:02:05Z\": must be set to the NotAfter time encoded in the leaf certificate",
        ],
    );
    status(
        with("beginRefreshAt", "2026-01-03T03:00:05Z"),
        &[
            "status.beginRefreshAt: Invalid value: \"2026-01-03T03:00:05Z\": must be at least 10 minutes before status.notAfter",
        ],
    );
    let foreign = chain(&super::tests::der(), Duration::days(1));
    let errors = &[&*format!(
        "status.certificateChain: Invalid value: {}: leaf certificate was not issued to the requested public key",
        json!(foreign)
    )];
    status(with("certificateChain", &foreign), errors);
}
