//! TLS settings of the process: what it serves with, and what it shows to kubelets.

use std::sync::Arc;

use anyhow::Context;
use knarr_pki::{ClusterPki, Rotating};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

fn roots(pems: &[&str]) -> anyhow::Result<Arc<RootCertStore>> {
    let mut store = RootCertStore::empty();
    for pem in pems {
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            store.add(certificate.context("certificate in PEM")?)?;
        }
    }
    Ok(Arc::new(store))
}

/// A listener that asks for client certificates and checks those that are shown.
fn listener(authorities: &[&str], current: Arc<Rotating>) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(authorities)?, provider.clone())
        .allow_unauthenticated()
        .build()
        .context("client certificate check")?;
    Ok(ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(current))
}

/// The API's listener.
pub fn serving(pki: &ClusterPki, current: Arc<Rotating>) -> anyhow::Result<Arc<ServerConfig>> {
    let mut config = listener(&[pki.client_ca.cert_pem(), pki.request_header_ca.cert_pem()], current)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The kubelet's listener; no h2, because streams are upgraded.
pub fn kubelet_serving(client_ca_pem: &str, current: Arc<Rotating>) -> anyhow::Result<Arc<ServerConfig>> {
    let mut config = listener(&[client_ca_pem], current)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The API server as a client of kubelets.
pub fn to_kubelets(pki: &ClusterPki, current: Arc<Rotating>) -> anyhow::Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(&[pki.server_ca.cert_pem()])?)
        .with_client_cert_resolver(current);
    Ok(Arc::new(config))
}
