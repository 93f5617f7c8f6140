//! Signing: from a template to a certificate. [`Ca::sign_request`] is what the signer controller calls.

use std::net::IpAddr;

use rcgen::{KeyPair, SigningKey as _};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::der::{bits, element, instant, integer, name, octets, oid, sequence};
use crate::request::Request;
use crate::{Ca, Error, Leaf, Usage};

/// Certificates begin to count a little earlier than now, for clocks that are behind.
const BACKDATE_SECONDS: i64 = 300;

/// What a certificate may be used for, in the terms of CertificateSigningRequests.
const KEY_USAGES: &[(&str, u16)] = &[
    ("digital signature", 0x8000),
    ("content commitment", 0x4000),
    ("key encipherment", 0x2000),
    ("data encipherment", 0x1000),
    ("key agreement", 0x0800),
    ("cert sign", 0x0400),
    ("crl sign", 0x0200),
    ("encipher only", 0x0100),
    ("decipher only", 0x0080),
    ("signing", 0x8000),
];

/// Extended usages below 1.3.6.1.5.5.7.3.
const EXTENDED_USAGES: &[(&str, u64)] = &[
    ("server auth", 1),
    ("client auth", 2),
    ("code signing", 3),
    ("email protection", 4),
    ("s/mime", 4),
    ("ipsec end system", 5),
    ("ipsec tunnel", 6),
    ("ipsec user", 7),
    ("timestamping", 8),
    ("ocsp signing", 9),
];

/// Everything in a certificate but issuer and signature.
pub(crate) struct Template {
    /// Subject, a DER name.
    pub subject: Vec<u8>,
    /// Public key, a DER SubjectPublicKeyInfo.
    pub public_key: Vec<u8>,
    /// Content of the subjectAltName extension (a DER sequence); None leaves it out.
    pub names: Option<Vec<u8>>,
    /// Usages by their CertificateSigningRequest names.
    pub usages: Vec<String>,
    /// First second of its life.
    pub not_before: i64,
    /// Last second of its life.
    pub not_after: i64,
}

impl Template {
    /// The template of a leaf with this key.
    pub fn of_leaf(leaf: &Leaf, key: &KeyPair, not_before: i64, not_after: i64) -> Self {
        use rcgen::PublicKeyData as _;
        let usage = match leaf.usage {
            Usage::Server => "server auth",
            Usage::Client => "client auth",
        };
        Self {
            subject: name(&leaf.organizations, &leaf.common_name),
            public_key: key.subject_public_key_info(),
            names: subject_names(&leaf.dns, &leaf.ips),
            usages: vec!["digital signature".to_string(), usage.to_string()],
            not_before,
            not_after,
        }
    }
}

/// Content of subjectAltName; None without names.
pub(crate) fn subject_names(dns: &[String], ips: &[IpAddr]) -> Option<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = dns.iter().map(|n| element(0x82, n.as_bytes())).collect();
    names.extend(ips.iter().map(|ip| match ip {
        IpAddr::V4(ip) => element(0x87, &ip.octets()),
        IpAddr::V6(ip) => element(0x87, &ip.octets()),
    }));
    (!names.is_empty()).then(|| element(0x30, &names.concat()))
}

fn extension(arc: u64, critical: bool, content: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[0x01, 0x01, 0xff] } else { &[] };
    sequence(&[&oid(&[2, 5, 29, arc]), critical, &octets(content)])
}

fn usage_extensions(usages: &[String]) -> Result<Vec<Vec<u8>>, String> {
    let (mut plain, mut extended) = (0u16, Vec::new());
    for usage in usages {
        if let Some((_, flag)) = KEY_USAGES.iter().find(|(n, _)| n == usage) {
            plain |= flag;
        } else if let Some((_, arc)) = EXTENDED_USAGES.iter().find(|(n, _)| n == usage) {
            let id = oid(&[1, 3, 6, 1, 5, 5, 7, 3, *arc]);
            if !extended.contains(&id) {
                extended.push(id);
            }
        } else if usage == "any" {
            extended.push(oid(&[2, 5, 29, 37, 0]));
        } else {
            return Err(format!("usage {usage:?} cannot be certified"));
        }
    }
    let mut out = Vec::new();
    if plain != 0 {
        let bytes = plain.to_be_bytes();
        let used = if bytes[1] == 0 { &bytes[..1] } else { &bytes[..] };
        let unused = used.last().map_or(0, |b| b.trailing_zeros() as u8);
        out.push(extension(15, true, &bits(unused, used)));
    }
    if !extended.is_empty() {
        out.push(extension(37, false, &element(0x30, &extended.concat())));
    }
    Ok(out)
}

impl Ca {
    /// Signs a template: the certificate in PEM, without the chain.
    pub(crate) fn sign(&self, template: &Template) -> Result<String, Error> {
        let fail = |detail: String| Error::Issue { subject: "signed by CA".to_string(), detail };
        let key = KeyPair::from_pem(self.key_pem()).map_err(|e| fail(e.to_string()))?;
        if key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(fail("only authorities with an ECDSA P-256 key can sign".to_string()));
        }
        let block = pem::parse(self.cert_pem()).map_err(|e| fail(e.to_string()))?;
        let (_, issuer) = X509Certificate::from_der(block.contents()).map_err(|e| fail(e.to_string()))?;
        let algorithm = sequence(&[&oid(&[1, 2, 840, 10045, 4, 3, 2])]);
        let mut serial = [0u8; 16];
        rand::fill(&mut serial);
        serial[0] &= 0x7f;
        let mut extensions = usage_extensions(&template.usages).map_err(fail)?;
        extensions.push(extension(19, true, &sequence(&[])));
        if let Some(id) = key_identifier(&issuer) {
            extensions.push(extension(35, false, &sequence(&[&element(0x80, id)])));
        }
        if let Some(names) = &template.names {
            // Critical when the subject is empty, as RFC 5280 wants.
            extensions.push(extension(17, template.subject.len() == 2, names));
        }
        let body = sequence(&[
            &element(0xa0, &integer(&[2])),
            &integer(&serial),
            &algorithm,
            issuer.subject().as_raw(),
            &sequence(&[&instant(template.not_before), &instant(template.not_after)]),
            &template.subject,
            &template.public_key,
            &element(0xa3, &element(0x30, &extensions.concat())),
        ]);
        let signature = key.sign(&body).map_err(|e| fail(e.to_string()))?;
        let whole = sequence(&[&body, &algorithm, &bits(0, &signature)]);
        Ok(pem::encode_config(
            &pem::Pem::new("CERTIFICATE", whole),
            pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
        ))
    }

    /// Signs a certificate request for these usages; it lives `seconds`, but no longer than the authority.
    /// The answer is the certificate alone, in PEM.
    ///
    /// # Errors
    /// Usages that cannot be certified, or an authority that cannot sign.
    pub fn sign_request(&self, request: &Request, usages: &[String], seconds: i64) -> Result<String, Error> {
        let fail = |detail: String| Error::Issue { subject: request.common_name.clone(), detail };
        let block = pem::parse(self.cert_pem()).map_err(|e| fail(e.to_string()))?;
        let (_, own) = X509Certificate::from_der(block.contents()).map_err(|e| fail(e.to_string()))?;
        let now = jiff::Timestamp::now().as_second();
        let template = Template {
            subject: request.subject.clone(),
            public_key: request.public_key.clone(),
            names: request.names.clone(),
            usages: usages.to_vec(),
            not_before: now - BACKDATE_SECONDS,
            not_after: (now - BACKDATE_SECONDS + seconds).min(own.validity().not_after.timestamp()),
        };
        self.sign(&template)
    }
}

/// The subject key identifier of an authority.
fn key_identifier<'a>(issuer: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    use x509_parser::extensions::ParsedExtension;
    issuer.extensions().iter().find_map(|e| match e.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    })
}
