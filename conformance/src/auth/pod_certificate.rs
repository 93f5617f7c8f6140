//! Upstream's projected_podcertificate.go.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::pki;
use super::signer::{self, Signer};
use crate::Result;
use crate::api::name_of;
use crate::context::Context;
use crate::images::AGNHOST;
use crate::kinds::{DEPLOYMENTS, SERVICES};
use crate::rest::refused;

tests! {
    "[sig-auth] Projected PodCertificate should allow server and client pods to establish an mTLS connection [MinimumKubeletVersion:1.37]" => mtls,
    "[sig-auth] Projected PodCertificate should honor UserAnnotations for SPIFFE URI path [MinimumKubeletVersion:1.37]" => annotations,
    "[sig-auth] Projected PodCertificate MaxExpirationSeconds validations should issue certificate with default life time (24h) when MaxExpirationSeconds is not set [MinimumKubeletVersion:1.37]" => default_life,
    "[sig-auth] Projected PodCertificate MaxExpirationSeconds validations should issue certificate with specified duration (1h) when MaxExpirationSeconds is set [MinimumKubeletVersion:1.37]" => one_hour,
    "[sig-auth] Projected PodCertificate MaxExpirationSeconds validations should reject pod creation when MaxExpirationSeconds exceeds maximum (91d) [MinimumKubeletVersion:1.37]" => too_long,
    "[sig-auth] Projected PodCertificate MaxExpirationSeconds validations should reject pod creation when MaxExpirationSeconds is less than minimum (1h) [MinimumKubeletVersion:1.37]" => too_short,
}

const CREDENTIALS: &str = "/run/tls-config/spiffe-cred-bundle.pem";
const TRUST: &str = "/run/tls-config/spiffe-trust-bundle.pem";

fn certificate(signer: &Signer) -> Value {
    json!({"signerName": signer.name, "credentialBundlePath": "spiffe-cred-bundle.pem", "keyType": "ECDSAP256"})
}

/// A Deployment of one pod that has a certificate and the signer's trust bundle.
fn peer(name: &str, signer: &Signer, args: &[String]) -> Value {
    let bundle = json!({"signerName": signer.name, "labelSelector": {}, "path": "spiffe-trust-bundle.pem"});
    let sources = json!([{"podCertificate": certificate(signer)}, {"clusterTrustBundle": bundle}]);
    let security = json!({
        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true, "runAsUser": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {
                "securityContext": {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]},
                "containers": [{
                    "name": name, "image": AGNHOST, "args": args, "imagePullPolicy": "Always",
                    "securityContext": security,
                    "volumeMounts": [{"name": "tls-config", "mountPath": "/run/tls-config"}],
                }],
                "volumes": [{"name": "tls-config", "projected": {"sources": sources}}],
            }},
        },
    })
}

async fn mtls(cx: Context) -> Result<()> {
    let signer = signer::start(&cx).await?;
    let listen = [
        "mtlsserver".into(),
        "--listen=0.0.0.0:443".into(),
        format!("--server-creds={CREDENTIALS}"),
        format!("--spiffe-trust-bundle={TRUST}"),
    ];
    cx.create(&DEPLOYMENTS, &peer("server", &signer, &listen)).await?;
    let service = json!({
        "metadata": {"name": "server"},
        "spec": {"type": "ClusterIP", "selector": {"app": "server"}, "ports": [{"name": "https", "port": 443}]},
    });
    cx.create(&SERVICES, &service).await?;
    let url = format!("https://server.{}.svc/spiffe-echo", cx.namespace());
    let fetch = [
        "mtlsclient".into(),
        format!("--fetch-url={url}"),
        format!("--server-trust-bundle={TRUST}"),
        format!("--client-cred-bundle={CREDENTIALS}"),
    ];
    cx.create(&DEPLOYMENTS, &peer("client", &signer, &fetch)).await?;
    let wanted = "Got response body: Client Identity: spiffe://";
    crate::watch::poll(Duration::from_secs(30), Duration::from_secs(2), "an mTLS connection", || async {
        let pods = cx.pods().labelled("app=client").await?;
        let pod = name_of(pods.first().context("no client pod yet")?)?.to_string();
        let logs = cx.pods().logs(&pod, "client").await?;
        anyhow::ensure!(logs.contains(wanted), "the client's log: {logs}");
        Ok(Some(()))
    })
    .await
}

/// A pod that shows its credentials and stays.
fn inspector(signer: &Signer, name: &str, more: Value) -> Value {
    let mut source = certificate(signer);
    for (key, value) in more.as_object().into_iter().flatten() {
        source[key] = value.clone();
    }
    json!({
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "inspector", "image": AGNHOST,
                "command": ["/bin/sh", "-c", format!("cat {CREDENTIALS} && sleep infinity")],
                "volumeMounts": [{"name": "tls-config", "mountPath": "/run/tls-config"}],
            }],
            "volumes": [{"name": "tls-config", "projected": {"sources": [{"podCertificate": source}]}}],
        },
    })
}

/// Lifetime and URIs of the pod's certificate.
async fn inspected(cx: &Context, name: &str, more: Value) -> Result<(i64, Vec<String>)> {
    let signer = signer::start(cx).await?;
    cx.pods().create(&inspector(&signer, name, more)).await?;
    cx.pods().wait_running(name).await?;
    let logs = cx.logs_until(name, "inspector", "END CERTIFICATE", Duration::from_secs(30)).await?;
    anyhow::ensure!(logs.contains("PRIVATE KEY"), "the credential bundle has no private key");
    pki::read(&logs)?.into_iter().next().context("no certificate in the credential bundle")
}

async fn annotations(cx: Context) -> Result<()> {
    let path = "/custom-workload";
    let more = json!({"userAnnotations": {"spiffe/path-overriding": path}});
    let (_, uris) = inspected(&cx, "path-override-pod", more).await?;
    let uri = uris.iter().find(|u| u.starts_with("spiffe://")).context("no SPIFFE URI in the certificate")?;
    let got = uri["spiffe://".len()..].find('/').map(|at| &uri["spiffe://".len() + at..]).unwrap_or("");
    ensure_eq!(got, path, "path of {uri}");
    Ok(())
}

async fn default_life(cx: Context) -> Result<()> {
    let (life, _) = inspected(&cx, "default-duration-pod", json!({})).await?;
    ensure_eq!(life, 24 * 3600, "seconds that the certificate lives");
    Ok(())
}

async fn one_hour(cx: Context) -> Result<()> {
    let (life, _) = inspected(&cx, "one-hour-duration-pod", json!({"maxExpirationSeconds": 3600})).await?;
    ensure_eq!(life, 3600, "seconds that the certificate lives");
    Ok(())
}

async fn rejected(cx: Context, seconds: i64, message: &str) -> Result<()> {
    let signer = signer::start(&cx).await?;
    let made = inspector(&signer, "duration-pod", json!({"maxExpirationSeconds": seconds}));
    let refusal = refused(cx.pods().create(&made).await, 422, "a pod with such a maxExpirationSeconds")?;
    ensure_contains!(refusal.message(), message, "message of the refusal");
    Ok(())
}

async fn too_long(cx: Context) -> Result<()> {
    rejected(cx, 91 * 24 * 3600 + 1, "if provided, maxExpirationSeconds must be <= 7862400").await
}

async fn too_short(cx: Context) -> Result<()> {
    rejected(cx, 3599, "if provided, maxExpirationSeconds must be >= 3600").await
}
