//! Keys and certificates of the tests.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::Result;

/// A certificate authority.
pub(crate) struct Authority {
    /// Its certificate.
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let pem = params.self_signed(&key)?.pem().replace("\r\n", "\n");
        Ok(Self { pem, issuer: Issuer::new(params, key) })
    }

    /// What signs.
    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }
}

/// A serving certificate for a Service of a namespace, with its key.
pub(crate) fn serving(authority: &Authority, service: &str, namespace: &str) -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![format!("{service}.{namespace}.svc"), service.to_string()])?;
    params.distinguished_name.push(DnType::CommonName, format!("{service}.{namespace}.svc"));
    let cert = params.signed_by(&key, authority.issuer())?;
    Ok((cert.pem(), key.serialize_pem()))
}

/// A certificate signing request: PEM and DER.
pub(crate) fn request(name: &str) -> Result<(String, Vec<u8>)> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    let made = params.serialize_request(&KeyPair::generate()?)?;
    Ok((made.pem()?, made.der().to_vec()))
}

/// The certificates of a PEM text, each with its lifetime in seconds and its URIs.
pub(crate) fn read(pem: &str) -> Result<Vec<(i64, Vec<String>)>> {
    use x509_parser::prelude::GeneralName;
    let mut out = Vec::new();
    for block in x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes()) {
        let block = block?;
        if block.label != "CERTIFICATE" {
            continue;
        }
        let cert = block.parse_x509()?;
        let life = cert.validity().not_after.timestamp() - cert.validity().not_before.timestamp();
        let names =
            cert.subject_alternative_name()?.map(|n| n.value.general_names.clone()).unwrap_or_default();
        let uris = names.iter().filter_map(|n| match n {
            GeneralName::URI(uri) => Some((*uri).to_string()),
            _ => None,
        });
        out.push((life, uris.collect()));
    }
    Ok(out)
}
