//! Certificate requests (PKCS #10): made by nodes, read by approver and signer.

use std::net::IpAddr;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, GeneralName};

use crate::{Error, Leaf};

/// A certificate request with its facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// First common name.
    pub common_name: String,
    /// Organizations, in order.
    pub organizations: Vec<String>,
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
    /// How many names of other sorts (e-mail, URI) it asks for.
    pub other_names: usize,
    pub(crate) subject: Vec<u8>,
    pub(crate) public_key: Vec<u8>,
    pub(crate) names: Option<Vec<u8>>,
}

impl Request {
    /// Reads a request in PEM and checks that its sender holds the key.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(pem: &str) -> Result<Self, Error> {
        let bad = |detail: String| Error::Request { detail };
        let block = pem::parse(pem).map_err(|e| bad(e.to_string()))?;
        if block.tag() != "CERTIFICATE REQUEST" {
            return Err(bad(format!("PEM block {:?} is no CERTIFICATE REQUEST", block.tag())));
        }
        let (_, request) =
            X509CertificationRequest::from_der(block.contents()).map_err(|e| bad(e.to_string()))?;
        request
            .verify_signature()
            .map_err(|_| bad("its signature was not made with the key that it names".to_string()))?;
        let info = &request.certification_request_info;
        let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().ok().map(str::to_string);
        let mut out = Self {
            common_name: info.subject.iter_common_name().find_map(text).unwrap_or_default(),
            organizations: info.subject.iter_organization().filter_map(text).collect(),
            dns: Vec::new(),
            ips: Vec::new(),
            other_names: 0,
            subject: info.subject.as_raw().to_vec(),
            public_key: info.subject_pki.raw.to_vec(),
            names: None,
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(name) => out.dns.push((*name).to_string()),
                    GeneralName::IPAddress(bytes) => match crate::leaf::address(bytes) {
                        Some(ip) => out.ips.push(ip),
                        None => return Err(bad("an address is neither IPv4 nor IPv6".to_string())),
                    },
                    _ => out.other_names += 1,
                }
            }
        }
        out.names = crate::sign::subject_names(&out.dns, &out.ips);
        Ok(out)
    }
}

/// A new key and the request for a leaf with it, both PEM: (request, key).
///
/// # Errors
/// A name that cannot stand in a request.
pub fn make(leaf: &Leaf) -> Result<(String, String), Error> {
    let fail = |e: rcgen::Error| Error::Issue { subject: leaf.common_name.clone(), detail: e.to_string() };
    if leaf.organizations.len() > 1 {
        let detail = "a request of ours carries at most one organization".to_string();
        return Err(Error::Issue { subject: leaf.common_name.clone(), detail });
    }
    let key = KeyPair::generate().map_err(fail)?;
    let mut params = CertificateParams::new(leaf.dns.clone()).map_err(fail)?;
    params.subject_alt_names.extend(leaf.ips.iter().map(|ip| SanType::IpAddress(*ip)));
    params.distinguished_name = DistinguishedName::new();
    for organization in &leaf.organizations {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.distinguished_name.push(DnType::CommonName, &leaf.common_name);
    let request = params.serialize_request(&key).map_err(fail)?;
    Ok((request.pem().map_err(fail)?, key.serialize_pem()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ca;
    use x509_parser::prelude::X509Certificate;

    #[test]
    fn a_signed_request_carries_what_was_asked_for_and_lives_as_long() {
        let ca = Ca::create("ca").unwrap();
        let mut leaf = Leaf::server("system:node:a", vec!["a".into()], vec!["10.0.0.1".parse().unwrap()]);
        leaf.organizations = vec!["system:nodes".into()];
        let (pem_text, _) = make(&leaf).unwrap();
        let request = Request::parse(&pem_text).unwrap();
        assert_eq!(
            (request.common_name.as_str(), request.dns.as_slice()),
            ("system:node:a", &["a".to_string()][..])
        );
        let usages = ["digital signature", "server auth"].map(String::from);
        let cert = ca.sign_request(&request, &usages, 900).unwrap();
        let block = pem::parse(&cert).unwrap();
        let (_, cert) = X509Certificate::from_der(block.contents()).unwrap();
        let root = pem::parse(ca.cert_pem()).unwrap();
        let (_, root) = X509Certificate::from_der(root.contents()).unwrap();
        assert!(cert.verify_signature(Some(root.public_key())).is_ok());
        assert_eq!(cert.subject().to_string(), "O=system:nodes, CN=system:node:a");
        assert_eq!(cert.validity().not_after.timestamp() - cert.validity().not_before.timestamp(), 900);
        assert!(cert.extended_key_usage().unwrap().unwrap().value.server_auth);
        assert!(cert.key_usage().unwrap().unwrap().value.digital_signature());
        assert!(ca.sign_request(&request, &["netscape sgc".to_string()], 900).is_err());
    }

    #[test]
    fn all_groups_of_a_client_are_certified() {
        let ca = Ca::create("ca").unwrap();
        let leaf = ca.issue(&Leaf::client("eve", &["a", "b", "c"])).unwrap();
        let block = pem::parse_many(&leaf.cert_pem).unwrap().remove(0);
        let (_, cert) = X509Certificate::from_der(block.contents()).unwrap();
        assert_eq!(cert.subject().to_string(), "O=a, O=b, O=c, CN=eve");
    }

    #[test]
    fn broken_requests_are_refused() {
        let (text, _) = make(&Leaf::client("a", &[])).unwrap();
        let mut block = pem::parse(&text).unwrap().into_contents();
        let last = block.len() - 1;
        block[last] ^= 1;
        let forged = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", block));
        for (text, want) in
            [("junk", ""), (forged.as_str(), "signature"), (Ca::create("x").unwrap().cert_pem(), "is no")]
        {
            let error = Request::parse(text).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
