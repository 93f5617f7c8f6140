//! Certificate authorities and the leaves they sign.

use std::net::IpAddr;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::Error;
use crate::file::{read, write_atomic};
use crate::sign::Template;

/// Validity of authorities, days.
const CA_DAYS: i64 = 3650;
/// Validity of leaves, days.
const LEAF_DAYS: i64 = 365;
const DAY_SECONDS: i64 = 86_400;

/// A certificate with its key, both PEM. The certificate may be a chain, leaf first.
#[derive(Clone)]
pub struct CertKey {
    /// Certificate chain.
    pub cert_pem: String,
    /// Private key, PKCS#8.
    pub key_pem: String,
}

impl std::fmt::Debug for CertKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertKey").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// What a leaf certificate is for (extended key usage).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// TLS server.
    Server,
    /// TLS client.
    Client,
}

/// A leaf to be issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Common name: the user name of a client, a label for a server.
    pub common_name: String,
    /// Organizations: the groups of a client.
    pub organizations: Vec<String>,
    /// DNS names of a server.
    pub dns: Vec<String>,
    /// Addresses of a server.
    pub ips: Vec<IpAddr>,
    /// Purpose.
    pub usage: Usage,
}

impl Leaf {
    /// A client certificate.
    pub fn client(common_name: &str, organizations: &[&str]) -> Self {
        Self {
            common_name: common_name.to_string(),
            organizations: organizations.iter().map(|o| (*o).to_string()).collect(),
            dns: Vec::new(),
            ips: Vec::new(),
            usage: Usage::Client,
        }
    }

    /// A serving certificate.
    pub fn server(common_name: &str, dns: Vec<String>, ips: Vec<IpAddr>) -> Self {
        Self {
            common_name: common_name.to_string(),
            organizations: Vec::new(),
            dns,
            ips,
            usage: Usage::Server,
        }
    }
}

/// A certificate authority.
#[derive(Debug, Clone)]
pub struct Ca {
    pair: CertKey,
}

fn issue_error(subject: &str, error: impl std::fmt::Display) -> Error {
    Error::Issue { subject: subject.to_string(), detail: error.to_string() }
}

fn validity(params: &mut CertificateParams, days: i64) {
    let now = jiff::Timestamp::now().as_second();
    // An hour back, so that a client whose clock is a little behind accepts it at once.
    params.not_before = at(now - 3600);
    params.not_after = at(now + days * DAY_SECONDS);
}

fn at(seconds: i64) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
}

impl Ca {
    /// Makes a new authority.
    ///
    /// # Errors
    /// The crypto library refused.
    pub fn create(common_name: &str) -> Result<Self, Error> {
        let key = KeyPair::generate().map_err(|e| issue_error(common_name, e))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        validity(&mut params, CA_DAYS);
        let cert = params.self_signed(&key).map_err(|e| issue_error(common_name, e))?;
        Ok(Self { pair: CertKey { cert_pem: cert.pem(), key_pem: key.serialize_pem() } })
    }

    /// Loads `<dir>/<name>.crt` and `.key`, or makes and stores them if neither exists.
    ///
    /// # Errors
    /// Files that cannot be used are named and left as they are.
    pub fn load_or_create(dir: &Path, name: &str) -> Result<Self, Error> {
        let (cert_path, key_path) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        match (read(&cert_path)?, read(&key_path)?) {
            (Some(cert_pem), Some(key_pem)) => {
                let ca = Self { pair: CertKey { cert_pem, key_pem } };
                ca.issuer().map_err(|e| Error::Content {
                    path: cert_path.display().to_string(),
                    detail: format!("not a usable certificate authority: {e}"),
                })?;
                Ok(ca)
            }
            (None, None) => {
                let stamp = jiff::Timestamp::now().as_second();
                let ca = Self::create(&format!("knarr-{name}@{stamp}"))?;
                write_atomic(&key_path, ca.pair.key_pem.as_bytes(), 0o600)?;
                write_atomic(&cert_path, ca.pair.cert_pem.as_bytes(), 0o644)?;
                Ok(ca)
            }
            (cert, _) => {
                let missing = if cert.is_none() { cert_path } else { key_path };
                Err(Error::Content {
                    path: missing.display().to_string(),
                    detail: "is missing while the other half of the pair exists; restore it or remove both"
                        .to_string(),
                })
            }
        }
    }

    /// The authority's certificate.
    pub fn cert_pem(&self) -> &str {
        &self.pair.cert_pem
    }

    /// The authority's key.
    pub fn key_pem(&self) -> &str {
        &self.pair.key_pem
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, Error> {
        let fail = |e: rcgen::Error| issue_error("CA", e);
        let key = KeyPair::from_pem(&self.pair.key_pem).map_err(fail)?;
        Issuer::from_ca_cert_pem(&self.pair.cert_pem, key).map_err(fail)
    }

    /// Signs a new leaf with a new key.
    ///
    /// # Errors
    /// An authority that cannot sign.
    pub fn issue(&self, leaf: &Leaf) -> Result<CertKey, Error> {
        let key = KeyPair::generate().map_err(|e| issue_error(&leaf.common_name, e))?;
        let now = jiff::Timestamp::now().as_second();
        let template = Template::of_leaf(leaf, &key, now - 3600, now + LEAF_DAYS * DAY_SECONDS);
        let cert_pem = format!("{}{}", self.sign(&template)?, self.pair.cert_pem);
        Ok(CertKey { cert_pem, key_pem: key.serialize_pem() })
    }

    /// Loads `<dir>/<name>.crt` and `.key` if they still fit the leaf, the authority and two thirds of their life;
    /// else issues and stores new ones.
    ///
    /// # Errors
    /// Names the file or subject.
    pub fn ensure(&self, dir: &Path, name: &str, leaf: &Leaf) -> Result<CertKey, Error> {
        let (cert_path, key_path) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        if let (Some(cert_pem), Some(key_pem)) = (read(&cert_path)?, read(&key_path)?)
            && cert_pem.ends_with(&self.pair.cert_pem)
            && still_fits(&cert_pem, leaf)
        {
            return Ok(CertKey { cert_pem, key_pem });
        }
        let pair = self.issue(leaf)?;
        write_atomic(&key_path, pair.key_pem.as_bytes(), 0o600)?;
        write_atomic(&cert_path, pair.cert_pem.as_bytes(), 0o644)?;
        Ok(pair)
    }
}

/// Whether the first certificate of a PEM chain carries the leaf's names and is younger than two thirds of its life.
fn still_fits(cert_pem: &str, leaf: &Leaf) -> bool {
    !crate::rotating::renewal_in(cert_pem).is_zero() && carries(cert_pem, leaf)
}

/// Whether the first certificate of a PEM chain carries exactly the leaf's subject and names.
pub fn carries(cert_pem: &str, leaf: &Leaf) -> bool {
    let Some(block) = pem::parse_many(cert_pem).ok().and_then(|b| b.into_iter().next()) else { return false };
    let Ok((_, cert)) = X509Certificate::from_der(block.contents()) else { return false };
    let mut dns = Vec::new();
    let mut ips = Vec::new();
    if let Ok(Some(names)) = cert.subject_alternative_name() {
        for name in &names.value.general_names {
            match name {
                GeneralName::DNSName(n) => dns.push((*n).to_string()),
                GeneralName::IPAddress(b) => ips.extend(address(b)),
                _ => {}
            }
        }
    }
    let subject = cert.subject();
    let cn: Vec<&str> = subject.iter_common_name().filter_map(|a| a.as_str().ok()).collect();
    let orgs: Vec<&str> = subject.iter_organization().filter_map(|a| a.as_str().ok()).collect();
    cn == [leaf.common_name.as_str()] && orgs == leaf.organizations && dns == leaf.dns && ips == leaf.ips
}

pub(crate) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serving(ip: &str) -> Leaf {
        Leaf::server("kube-apiserver", vec!["kubernetes".into()], vec![ip.parse().unwrap()])
    }

    #[test]
    fn a_leaf_is_kept_while_it_fits_and_renewed_when_names_change() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::load_or_create(dir.path(), "server-ca").unwrap();
        let first = ca.ensure(dir.path(), "serving", &serving("127.0.0.1")).unwrap();
        let again = ca.ensure(dir.path(), "serving", &serving("127.0.0.1")).unwrap();
        assert_eq!(first.cert_pem, again.cert_pem);
        let moved = ca.ensure(dir.path(), "serving", &serving("10.0.0.1")).unwrap();
        assert_ne!(first.cert_pem, moved.cert_pem);
    }

    #[test]
    fn a_reloaded_authority_signs_leaves_that_verify() {
        let dir = tempfile::tempdir().unwrap();
        let first = Ca::load_or_create(dir.path(), "client-ca").unwrap();
        let ca = Ca::load_or_create(dir.path(), "client-ca").unwrap();
        assert_eq!(first.cert_pem(), ca.cert_pem());
        let leaf = ca.issue(&Leaf::client("system:admin", &["system:masters"])).unwrap();
        let blocks = pem::parse_many(&leaf.cert_pem).unwrap();
        let (_, cert) = X509Certificate::from_der(blocks[0].contents()).unwrap();
        let (_, root) = X509Certificate::from_der(blocks[1].contents()).unwrap();
        assert!(cert.verify_signature(Some(root.public_key())).is_ok());
        assert_eq!(cert.subject().to_string(), "O=system:masters, CN=system:admin");
    }

    #[test]
    fn half_a_pair_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        Ca::load_or_create(dir.path(), "server-ca").unwrap();
        std::fs::remove_file(dir.path().join("server-ca.key")).unwrap();
        let error = Ca::load_or_create(dir.path(), "server-ca").unwrap_err().to_string();
        assert!(error.contains("server-ca.key") && error.contains("missing"), "{error}");
    }
}
