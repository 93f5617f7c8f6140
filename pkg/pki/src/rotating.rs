//! A certificate that is exchanged while listeners and clients use it: every new handshake takes the current one.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{CertKey, Error};

/// The current certificate and key. Without one, handshakes fail (server) or show nothing (client).
#[derive(Debug, Default)]
pub struct Rotating(ArcSwapOption<CertifiedKey>);

impl Rotating {
    /// Starts with a certificate.
    ///
    /// # Errors
    /// As [`Rotating::set`].
    pub fn new(pair: &CertKey) -> Result<Arc<Self>, Error> {
        let rotating = Arc::new(Self::default());
        rotating.set(pair)?;
        Ok(rotating)
    }

    /// Exchanges the certificate; handshakes from now on use it.
    ///
    /// # Errors
    /// PEM that is no certificate or key.
    pub fn set(&self, pair: &CertKey) -> Result<(), Error> {
        let bad = |detail: String| Error::Issue { subject: "TLS certificate".to_string(), detail };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pair.cert_pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|e| bad(e.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).map_err(|e| bad(e.to_string()))?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key).map_err(|e| bad(e.to_string()))?;
        self.0.store(Some(Arc::new(CertifiedKey::new(chain, key))));
        Ok(())
    }

    /// Whether there is a certificate.
    pub fn is_set(&self) -> bool {
        self.0.load().is_some()
    }
}

impl ResolvesServerCert for Rotating {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

impl ResolvesClientCert for Rotating {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }

    fn has_certs(&self) -> bool {
        self.is_set()
    }
}

/// First and last second of the first certificate in PEM.
fn life(cert_pem: &str) -> Option<(i64, i64)> {
    let block = pem::parse_many(cert_pem).ok()?.into_iter().next()?;
    let (_, cert) = X509Certificate::from_der(block.contents()).ok()?;
    Some((cert.validity().not_before.timestamp(), cert.validity().not_after.timestamp()))
}

/// The second at which a certificate has lived two thirds of its life; None if it cannot be read.
pub fn renewal_at(cert_pem: &str) -> Option<i64> {
    let (from, to) = life(cert_pem)?;
    Some(from + (to - from) / 3 * 2)
}

/// How long until a certificate should be renewed; zero when it is due, or unreadable.
pub fn renewal_in(cert_pem: &str) -> Duration {
    let left = renewal_at(cert_pem).unwrap_or(0) - jiff::Timestamp::now().as_second();
    Duration::from_secs(u64::try_from(left).unwrap_or(0))
}

/// Whether a certificate is still valid.
pub fn is_alive(cert_pem: &str) -> bool {
    let now = jiff::Timestamp::now().as_second();
    life(cert_pem).is_some_and(|(from, to)| (from..=to).contains(&now))
}
