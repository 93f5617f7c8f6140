//! Who owns a node name: the first machine that claims it, by a password that only it has, until the Node is deleted.
//! Kept as Secret `<node>.node-password.knarr` in `kube-system`.

use http::Method;
use knarr_machinery::names;
use serde_json::{Value, json};

use crate::api::Api;

const NAMESPACE: &str = "kube-system";
/// What the secrets' names end in.
pub const SUFFIX: &str = ".node-password.knarr";
/// Their type.
pub const SECRET_TYPE: &str = "knarr.io/node-password";
const SHORTEST: usize = 16;

/// What a machine says of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Claim {
    /// The node name it wants.
    pub node: String,
    /// The node's password.
    pub password: String,
    /// The machine's id (`/etc/machine-id`); empty when it has none.
    pub machine_id: String,
}

/// Why a claim does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No node can have this name or password.
    #[error("node {node:?}: {detail}")]
    Invalid {
        /// Node name.
        node: String,
        /// What is wrong.
        detail: String,
    },
    /// Another machine has the name.
    #[error(
        "node name {0:?} belongs to another machine (its machine id differs): give this machine another host name or \
         --node-name, or, if it replaces that one, run `kubectl delete node {0}` first"
    )]
    OtherMachine(String),
    /// The same machine, or one without id, but not the password.
    #[error(
        "the password of node {0:?} is wrong: restore the file node/password beside its configuration, or run \
         `kubectl delete node {0}` to free the name"
    )]
    Password(String),
    /// Nobody has claimed the name.
    #[error("node name {0:?} has not been claimed")]
    Unclaimed(String),
    /// The API.
    #[error("{0}")]
    Api(String),
}

/// The claims of the cluster.
#[derive(Clone)]
pub struct NodePasswords {
    api: Api,
}

/// The name of a node's secret.
pub fn secret_name(node: &str) -> String {
    format!("{node}{SUFFIX}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Passwords are long and random, so one round of a salted hash keeps them.
fn hash(salt: &str, password: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, format!("{salt}:{password}").as_bytes());
    format!("{salt}:{}", hex(digest.as_ref()))
}

fn fits(stored: &str, password: &str) -> bool {
    stored.split_once(':').is_some_and(|(salt, _)| hash(salt, password) == stored)
}

/// Whether a stored claim is that of this machine.
fn judge(secret: &Value, claim: &Claim) -> Result<(), Error> {
    use base64::Engine as _;
    let field = |name: &str| {
        let coded = secret["data"][name].as_str().unwrap_or_default();
        let bytes = base64::engine::general_purpose::STANDARD.decode(coded).unwrap_or_default();
        String::from_utf8(bytes).unwrap_or_default()
    };
    let machine = field("machine-id");
    if !machine.is_empty() && !claim.machine_id.is_empty() && machine != claim.machine_id {
        return Err(Error::OtherMachine(claim.node.clone()));
    }
    if !fits(&field("hash"), &claim.password) {
        return Err(Error::Password(claim.node.clone()));
    }
    Ok(())
}

impl NodePasswords {
    /// The client must be allowed to get and create secrets in `kube-system`.
    pub fn new(client: kube::Client) -> Self {
        Self { api: Api::new(client) }
    }

    async fn stored(&self, node: &str) -> Result<Option<Value>, Error> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets/{}", secret_name(node));
        self.api.get(&path).await.map_err(|e| Error::Api(e.message.clone()))
    }

    fn check(claim: &Claim) -> Result<(), Error> {
        let bad = |detail: String| Err(Error::Invalid { node: claim.node.clone(), detail });
        if let Some(detail) = names::name_is_dns_subdomain(&claim.node, false).into_iter().next() {
            return bad(detail);
        }
        if claim.password.len() < SHORTEST {
            return bad(format!("the node password has fewer than {SHORTEST} characters"));
        }
        Ok(())
    }

    /// Whether a node name was claimed with this password by this machine.
    ///
    /// # Errors
    /// Why not.
    pub async fn verify(&self, claim: &Claim) -> Result<(), Error> {
        Self::check(claim)?;
        match self.stored(&claim.node).await? {
            Some(secret) => judge(&secret, claim),
            None => Err(Error::Unclaimed(claim.node.clone())),
        }
    }

    /// Claims a node name, or verifies an earlier claim.
    ///
    /// # Errors
    /// Why not.
    pub async fn claim(&self, claim: &Claim) -> Result<(), Error> {
        Self::check(claim)?;
        if let Some(secret) = self.stored(&claim.node).await? {
            return judge(&secret, claim);
        }
        let mut salt = [0u8; 16];
        rand::fill(&mut salt);
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": SECRET_TYPE,
            "metadata": {"name": secret_name(&claim.node), "namespace": NAMESPACE},
            "stringData": {"hash": hash(&hex(&salt), &claim.password), "machine-id": claim.machine_id},
        });
        let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets");
        match self.api.send(Method::POST, &path, &secret).await {
            Ok(_) => Ok(()),
            // Another machine was a moment faster.
            Err(e) if e.reason == "AlreadyExists" => self.verify(claim).await,
            Err(e) => Err(Error::Api(e.message.clone())),
        }
    }

    /// Whether a node name was claimed by an agent.
    ///
    /// # Errors
    /// The API.
    pub async fn is_claimed(&self, node: &str) -> Result<bool, Error> {
        Ok(self.stored(node).await?.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;

    #[test]
    fn claims() {
        let b = |t: &str| base64::engine::general_purpose::STANDARD.encode(t);
        let secret = |machine: &str| json!({"data": {"hash": b(&hash("salt", "0123456789abcdef")), "machine-id": b(machine)}});
        let claim = |password: &str, machine: &str| Claim {
            node: "n".into(),
            password: password.into(),
            machine_id: machine.into(),
        };
        let right = "0123456789abcdef";
        let cases = [
            ("m1", right, "m1", Ok(())),
            ("m1", right, "", Ok(())),
            ("", right, "m2", Ok(())),
            ("m1", right, "m2", Err(Error::OtherMachine("n".into()))),
            ("m1", "wrong", "m2", Err(Error::OtherMachine("n".into()))),
            ("m1", "wrong", "m1", Err(Error::Password("n".into()))),
            ("", "", "m1", Err(Error::Password("n".into()))),
        ];
        for (stored, password, machine, want) in cases {
            assert_eq!(
                judge(&secret(stored), &claim(password, machine)),
                want,
                "{stored} {password} {machine}"
            );
        }
        assert!(NodePasswords::check(&claim("short", "")).is_err());
        assert!(NodePasswords::check(&Claim { node: "A b".into(), ..claim(right, "") }).is_err());
    }
}
