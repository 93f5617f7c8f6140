//! Join tokens: `K10<SHA-256 of the server CA>::<user>:<password>`, the short form (a password alone), and
//! kubeadm's bootstrap tokens `<id>.<secret>`, alone or behind the hash.

use rand::Rng as _;
use sha2::Digest as _;

/// What begins a token that names the CA.
pub const PREFIX: &str = "K10";
const DIGITS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// Whom a token stands for.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// User (`server` or `node`) and password.
    Password {
        /// User.
        user: String,
        /// Password.
        password: String,
    },
    /// A bootstrap token.
    Bootstrap {
        /// Public part, six characters.
        id: String,
        /// Secret part, sixteen characters.
        secret: String,
    },
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Password { user, .. } => write!(f, "Password({user})"),
            Self::Bootstrap { id, .. } => write!(f, "Bootstrap({id})"),
        }
    }
}

/// A join token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the server CA, in hex; None in short tokens.
    pub ca_hash: Option<String>,
    /// The secret part.
    pub credentials: Credentials,
}

/// SHA-256 of a CA in PEM, as tokens name it.
pub fn ca_hash(ca_pem: &str) -> String {
    sha2::Sha256::digest(ca_pem.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

/// `<id>.<secret>` as kubeadm has it.
pub fn bootstrap(text: &str) -> Option<(&str, &str)> {
    let plain = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| DIGITS.contains(&b));
    text.split_once('.').filter(|(id, secret)| plain(id, 6) && plain(secret, 16))
}

/// A new bootstrap token.
pub fn generate() -> String {
    let mut rng = rand::rng();
    let mut part = |n: usize| -> String {
        (0..n).map(|_| char::from(DIGITS[rng.random_range(0..DIGITS.len())])).collect()
    };
    format!("{}.{}", part(6), part(16))
}

/// A new random password of 32 hex digits.
pub fn password() -> String {
    let mut bytes = [0u8; 16];
    rand::fill(&mut bytes);
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Token {
    /// Reads a token.
    ///
    /// # Errors
    /// What is wrong with its form; the text never holds the token itself.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("the token is empty".to_string());
        }
        let Some(rest) = text.strip_prefix(PREFIX) else {
            return Ok(Self { ca_hash: None, credentials: short(text)? });
        };
        let Some((hash, secret)) = rest.split_once("::") else {
            return Err("the token begins with K10 but has no \"::\"".to_string());
        };
        if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err("the CA hash of the token is not 64 hex digits".to_string());
        }
        let credentials = match (bootstrap(secret), secret.split_once(':')) {
            (Some((id, secret)), _) => Credentials::Bootstrap { id: id.into(), secret: secret.into() },
            (None, Some((user, password))) if !user.is_empty() && !password.is_empty() => {
                Credentials::Password { user: user.into(), password: password.into() }
            }
            _ => {
                return Err(
                    "after \"::\" the token has neither <user>:<password> nor <id>.<secret>".to_string()
                );
            }
        };
        Ok(Self { ca_hash: Some(hash.to_lowercase()), credentials })
    }

    /// The secure form.
    pub fn secure(ca_pem: &str, user: &str, password: &str) -> String {
        format!("{PREFIX}{}::{user}:{password}", ca_hash(ca_pem))
    }
}

fn short(text: &str) -> Result<Credentials, String> {
    if let Some((id, secret)) = bootstrap(text) {
        return Ok(Credentials::Bootstrap { id: id.into(), secret: secret.into() });
    }
    if text.contains(':') || text.contains(char::is_whitespace) {
        return Err("a token without the K10 prefix is a password: no colons, no blanks".to_string());
    }
    Ok(Credentials::Password { user: "node".to_string(), password: text.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let hash = "ab".repeat(32);
        let password = |user: &str, p: &str| Credentials::Password { user: user.into(), password: p.into() };
        let boot = Credentials::Bootstrap { id: "abcdef".into(), secret: "0123456789abcdef".into() };
        type Want = Result<(bool, Credentials), &'static str>;
        let cases: Vec<(String, Want)> = vec![
            (format!("K10{hash}::server:pw"), Ok((true, password("server", "pw")))),
            (format!(" K10{hash}::node:p:w\n"), Ok((true, password("node", "p:w")))),
            (format!("K10{hash}::abcdef.0123456789abcdef"), Ok((true, boot.clone()))),
            ("abcdef.0123456789abcdef".into(), Ok((false, boot))),
            ("secret".into(), Ok((false, password("node", "secret")))),
            ("".into(), Err("empty")),
            ("K10abc::node:x".into(), Err("64 hex digits")),
            (format!("K10{hash}:node:x"), Err("no \"::\"")),
            (format!("K10{hash}::nopassword"), Err("neither")),
            ("a:b".into(), Err("no colons")),
        ];
        for (text, want) in cases {
            match (Token::parse(&text), want) {
                (Ok(token), Ok((hashed, credentials))) => {
                    assert_eq!((token.ca_hash.is_some(), token.credentials), (hashed, credentials), "{text}");
                }
                (Err(error), Err(part)) => assert!(error.contains(part), "{text}: {error}"),
                (got, want) => panic!("{text}: {got:?}, wanted {want:?}"),
            }
        }
        assert!(bootstrap(&generate()).is_some());
        assert_eq!(password_lengths(), 32);
    }

    fn password_lengths() -> usize {
        super::password().len()
    }
}
