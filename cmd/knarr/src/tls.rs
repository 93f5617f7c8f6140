//! TLS settings of the process: what it serves with, and what it shows to kubelets.

use std::sync::Arc;

use anyhow::Context;
use knarr_pki::{CertKey, ClusterPki};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

fn certificates(pem: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().context("certificate in PEM")
}

fn roots(pems: &[&str]) -> anyhow::Result<Arc<RootCertStore>> {
    let mut store = RootCertStore::empty();
    for pem in pems {
        for certificate in certificates(pem)? {
            store.add(certificate)?;
        }
    }
    Ok(Arc::new(store))
}

fn key(pair: &CertKey) -> anyhow::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).context("private key in PEM")
}

/// The API's listener: client certificates are asked for, and checked if one is shown.
pub fn serving(pki: &ClusterPki, pair: &CertKey) -> anyhow::Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = roots(&[pki.client_ca.cert_pem(), pki.request_header_ca.cert_pem()])?;
    let verifier = WebPkiClientVerifier::builder_with_provider(clients, provider.clone())
        .allow_unauthenticated()
        .build()
        .context("client certificate check")?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&pair.cert_pem)?, key(pair)?)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The kubelet's listener: client certificates are checked if one is shown; no h2, because streams are upgraded.
pub fn kubelet_serving(pki: &ClusterPki, pair: &CertKey) -> anyhow::Result<Arc<ServerConfig>> {
    let mut config = ServerConfig::clone(&*serving(pki, pair)?);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The API server as a client of kubelets.
pub fn to_kubelets(pki: &ClusterPki) -> anyhow::Result<Arc<ClientConfig>> {
    let pair = pki.client("kube-apiserver", "system:apiserver", &["system:masters"])?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(&[pki.server_ca.cert_pem()])?)
        .with_client_auth_cert(certificates(&pair.cert_pem)?, key(&pair)?)?;
    Ok(Arc::new(config))
}
