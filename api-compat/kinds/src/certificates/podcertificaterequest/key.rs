//! The key of a PodCertificateRequest: which are allowed, and the proof that the asker has it.

use base64::Engine as _;
use knarr_machinery::{FieldError, Path};
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};
use x509_parser::public_key::PublicKey;

use crate::check::Errors;
use crate::value::text;

/// Longest request that is read.
const LIMIT_BYTES: usize = 10 * 1024;
const EC_KEY: &str = "1.2.840.10045.2.1";
const ED25519: &str = "1.3.101.112";
const P256: &str = "1.2.840.10045.3.1.7";
const P384: &str = "1.3.132.0.34";
const P521: &str = "1.3.132.0.35";

/// The PKCS#10 request of a document.
pub(super) fn stub(obj: &Value) -> Option<Vec<u8>> {
    base64::engine::general_purpose::STANDARD.decode(text(obj, "/spec/stubPKCS10Request")).ok()
}

/// The bytes of the key that the request asks a certificate for.
pub(super) fn public_key(obj: &Value) -> Option<Vec<u8>> {
    let der = stub(obj)?;
    let (_, request) = X509CertificationRequest::from_der(&der).ok()?;
    Some(request.certification_request_info.subject_pki.raw.to_vec())
}

/// The request must parse, be of an allowed key, and be signed with it.
pub(super) fn validate(errors: &mut Errors, obj: &Value) {
    let path = Path::new("spec").child("stubPKCS10Request");
    let Some(der) = stub(obj).filter(|d| !d.is_empty()) else {
        errors.push(FieldError::required(&path, ""));
        return;
    };
    if der.len() > LIMIT_BYTES {
        errors.push(FieldError::too_long(&path, LIMIT_BYTES));
        return;
    }
    if let Err(detail) = judge(&der) {
        errors.push(FieldError::invalid(&path, "<value omitted>", detail));
    }
}

fn judge(der: &[u8]) -> Result<(), String> {
    let (rest, request) =
        X509CertificationRequest::from_der(der).map_err(|_| "must be a valid PKCS#10 CSR")?;
    if !rest.is_empty() {
        return Err("must be a valid PKCS#10 CSR".to_string());
    }
    let info = &request.certification_request_info;
    let algorithm = verifier(&info.subject_pki)?;
    let key = UnparsedPublicKey::new(algorithm, &info.subject_pki.subject_public_key.data);
    key.verify(info.raw, &request.signature_value.data)
        .map_err(|_| "could not verify the signature of the CSR".to_string())
}

fn verifier(key: &SubjectPublicKeyInfo<'_>) -> Result<&'static dyn VerificationAlgorithm, String> {
    match key.algorithm.algorithm.to_id_string().as_str() {
        ED25519 => Ok(&signature::ED25519),
        EC_KEY => {
            let curve = key.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
            match curve.map(|c| c.to_id_string()).as_deref() {
                Some(P256) => Ok(&signature::ECDSA_P256_SHA256_ASN1),
                Some(P384) => Ok(&signature::ECDSA_P384_SHA384_ASN1),
                Some(P521) => {
                    Err("keys on curve P521 are not supported: this server cannot verify them".to_string())
                }
                _ => Err("elliptic public keys must use curve P256, P384, or P521".to_string()),
            }
        }
        _ => match key.parsed() {
            Ok(PublicKey::RSA(rsa)) if matches!(rsa.key_size(), 3072 | 4096) => {
                Ok(&signature::RSA_PKCS1_2048_8192_SHA256)
            }
            Ok(PublicKey::RSA(_)) => Err("RSA keys must have modulus size 3072 or 4096".to_string()),
            _ => Err("unknown public key type; supported types are Ed25519, ECDSA, and RSA".to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, KeyPair};

    fn made(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let key = KeyPair::generate_for(algorithm).unwrap();
        params.serialize_request(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_key_must_be_allowed_and_proven() {
        for algorithm in
            [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519]
        {
            let mut der = made(algorithm);
            judge(&der).unwrap();
            // Another key than the one that signed: a byte of the public key, or of the signature, is changed.
            let last = der.len() - 1;
            der[last] ^= 1;
            assert!(judge(&der).unwrap_err().contains("could not verify"), "{algorithm:?}");
        }
        assert_eq!(judge(b"nonsense").unwrap_err(), "must be a valid PKCS#10 CSR");
        let mut trailing = made(&rcgen::PKCS_ED25519);
        trailing.push(0);
        assert!(judge(&trailing).is_err());
    }
}
