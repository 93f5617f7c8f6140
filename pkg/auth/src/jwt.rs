//! Signed JSON web tokens with ES256 (made here) and RS256 (also accepted), and the published key set.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
};
use serde_json::{Value, json};

/// A key that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("service account key: {0}")]
pub struct KeyError(String);

/// A public key that verifies tokens.
#[derive(Clone)]
pub struct VerifyingKey {
    id: String,
    kind: KeyKind,
}

#[derive(Clone)]
enum KeyKind {
    /// The uncompressed point.
    Es256(Vec<u8>),
    /// PKCS#1 RSAPublicKey, and modulus and exponent.
    Rs256 { der: Vec<u8>, n: Vec<u8>, e: Vec<u8> },
}

/// The id of a key as upstream computes it: SHA-256 of the PKIX form, base64url.
fn key_id(spki: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, spki))
}

pub(crate) fn pem_blocks(pem: &str) -> Vec<(String, Vec<u8>)> {
    let mut out = Vec::new();
    let mut rest = pem;
    while let Some((_, after)) = rest.split_once("-----BEGIN ") {
        let Some((label, after)) = after.split_once("-----") else { break };
        let Some((body, after)) = after.split_once(&format!("-----END {label}-----")) else { break };
        let body: String = body.chars().filter(|c| !c.is_whitespace()).collect();
        if let Ok(der) = STANDARD.decode(body) {
            out.push((label.to_string(), der));
        }
        rest = after;
    }
    out
}

/// The fixed beginning of a P-256 SubjectPublicKeyInfo; the point follows.
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

impl VerifyingKey {
    /// Reads the public keys of a PEM file (`PUBLIC KEY`).
    ///
    /// # Errors
    /// No usable key in the text.
    pub fn from_pem(pem: &str) -> Result<Vec<Self>, KeyError> {
        let mut out = Vec::new();
        for (label, der) in pem_blocks(pem) {
            if label != "PUBLIC KEY" {
                return Err(KeyError(format!("a {label} block where a PUBLIC KEY is expected")));
            }
            out.push(Self::from_spki(&der)?);
        }
        if out.is_empty() { Err(KeyError("no PUBLIC KEY block".to_string())) } else { Ok(out) }
    }

    fn from_spki(spki: &[u8]) -> Result<Self, KeyError> {
        use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};
        use x509_parser::public_key::PublicKey;
        let (_, info) = SubjectPublicKeyInfo::from_der(spki).map_err(|e| KeyError(e.to_string()))?;
        let kind = match info.parsed().map_err(|e| KeyError(e.to_string()))? {
            PublicKey::EC(_) if spki.starts_with(&P256_SPKI) => {
                KeyKind::Es256(info.subject_public_key.data.to_vec())
            }
            PublicKey::RSA(rsa) => KeyKind::Rs256 {
                der: info.subject_public_key.data.to_vec(),
                n: trimmed(rsa.modulus),
                e: trimmed(rsa.exponent),
            },
            _ => return Err(KeyError("only P-256 and RSA keys are supported".to_string())),
        };
        Ok(Self { id: key_id(spki), kind })
    }

    fn verify(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        match (&self.kind, algorithm) {
            (KeyKind::Es256(point), "ES256") => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
            (KeyKind::Rs256 { der, .. }, "RS256") => {
                UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der).verify(message, signature).is_ok()
            }
            _ => false,
        }
    }

    /// The JWK of the key.
    pub fn jwk(&self) -> Value {
        match &self.kind {
            KeyKind::Es256(point) => {
                let (x, y) =
                    point.get(1..).unwrap_or_default().split_at(32.min(point.len().saturating_sub(1)));
                json!({"use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256",
                    "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)})
            }
            KeyKind::Rs256 { n, e, .. } => json!({"use": "sig", "kty": "RSA", "kid": self.id, "alg": "RS256",
                "n": URL_SAFE_NO_PAD.encode(n), "e": URL_SAFE_NO_PAD.encode(e)}),
        }
    }

    /// The key's algorithm.
    pub fn algorithm(&self) -> &'static str {
        match self.kind {
            KeyKind::Es256(_) => "ES256",
            KeyKind::Rs256 { .. } => "RS256",
        }
    }
}

fn trimmed(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|b| **b == 0).count();
    number[zeros..].to_vec()
}

/// The private key that signs tokens: ECDSA P-256.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    public: VerifyingKey,
    random: SystemRandom,
}

impl SigningKey {
    /// Reads a PKCS#8 PEM file (`PRIVATE KEY`).
    ///
    /// # Errors
    /// Not a PKCS#8 P-256 key.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let block = pem_blocks(pem).into_iter().find(|(label, _)| label == "PRIVATE KEY");
        let (_, der) = block.ok_or_else(|| KeyError("no PRIVATE KEY block".to_string()))?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random)
            .map_err(|e| KeyError(format!("not a PKCS#8 P-256 key: {e}")))?;
        let point = pair.public_key().as_ref().to_vec();
        let spki: Vec<u8> = P256_SPKI.iter().copied().chain(point.iter().copied()).collect();
        let public = VerifyingKey { id: key_id(&spki), kind: KeyKind::Es256(point) };
        Ok(Self { pair, public, random })
    }

    /// The public half.
    pub fn public(&self) -> &VerifyingKey {
        &self.public
    }

    /// Signs claims.
    ///
    /// # Errors
    /// The random source failed.
    pub fn sign(&self, claims: &Value) -> Result<String, KeyError> {
        let header = json!({"alg": "ES256", "kid": self.public.id});
        let text = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let signature = self
            .pair
            .sign(&self.random, text.as_bytes())
            .map_err(|e| KeyError(format!("signing failed: {e}")))?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// Claims of a token without any check; None when it is no token of three parts with a JSON object within.
pub fn unverified_claims(token: &str) -> Option<Value> {
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    claims.is_object().then_some(claims)
}

/// The claims of a token that one of the keys signed.
pub fn verified_claims(token: &str, keys: &[VerifyingKey]) -> Option<Value> {
    let (message, signature) = token.rsplit_once('.')?;
    let (header, _) = message.split_once('.')?;
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    let algorithm = header["alg"].as_str()?;
    let id = header["kid"].as_str().unwrap_or_default();
    // A named key is tried alone if it is known.
    let known = keys.iter().any(|k| k.id == id);
    let ok = keys
        .iter()
        .filter(|k| !known || k.id == id)
        .any(|k| k.verify(algorithm, message.as_bytes(), &signature));
    if ok { unverified_claims(token) } else { None }
}

/// The document at `/openid/v1/jwks`.
pub fn jwks(keys: &[VerifyingKey]) -> Value {
    json!({"keys": keys.iter().map(VerifyingKey::jwk).collect::<Vec<_>>()})
}

/// The document at `/.well-known/openid-configuration`.
pub fn openid_configuration(issuer: &str, jwks_uri: &str, keys: &[VerifyingKey]) -> Value {
    let mut algorithms: Vec<&str> = keys.iter().map(VerifyingKey::algorithm).collect();
    algorithms.sort_unstable();
    algorithms.dedup();
    json!({
        "issuer": issuer,
        "jwks_uri": jwks_uri,
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": algorithms,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn test_key() -> SigningKey {
        let der =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            STANDARD.encode(der.as_ref())
        );
        SigningKey::from_pem(&pem).unwrap()
    }

    #[test]
    fn sign_and_verify() {
        let (a, b) = (test_key(), test_key());
        let token = a.sign(&json!({"sub": "x"})).unwrap();
        let keys = [b.public().clone(), a.public().clone()];
        assert_eq!(verified_claims(&token, &keys), Some(json!({"sub": "x"})));
        assert_eq!(verified_claims(&token, &keys[..1]), None);
        let mut parts: Vec<String> = token.split('.').map(str::to_string).collect();
        parts[1] = URL_SAFE_NO_PAD.encode("{\"sub\":\"y\"}");
        assert_eq!(verified_claims(&parts.join("."), &keys), None);
        assert_eq!(verified_claims("a.b.c", &keys), None);
        assert_eq!(unverified_claims("not a token"), None);
        let header = URL_SAFE_NO_PAD.encode("{\"alg\":\"none\"}");
        assert_eq!(verified_claims(&format!("{header}.{}.", parts[1]), &keys), None);
    }

    #[test]
    fn documents() {
        let key = test_key();
        let set = jwks(&[key.public().clone()]);
        assert_eq!(set["keys"][0]["kty"], "EC");
        assert_eq!(URL_SAFE_NO_PAD.decode(set["keys"][0]["x"].as_str().unwrap()).unwrap().len(), 32);
        let doc = openid_configuration("https://i", "https://i/openid/v1/jwks", &[key.public().clone()]);
        assert_eq!(doc["id_token_signing_alg_values_supported"], json!(["ES256"]));
    }

    #[test]
    fn public_pem_round_trip() {
        let key = test_key();
        let KeyKind::Es256(point) = &key.public().kind else { panic!() };
        let spki: Vec<u8> = P256_SPKI.iter().copied().chain(point.iter().copied()).collect();
        let pem =
            format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(&spki));
        let read = VerifyingKey::from_pem(&pem).unwrap();
        assert_eq!(read[0].id, key.public().id);
        assert_eq!(read[0].jwk(), key.public().jwk());
        assert!(VerifyingKey::from_pem("x").is_err());
    }
}
