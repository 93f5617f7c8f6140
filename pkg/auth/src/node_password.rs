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

/// What runs the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// An agent.
    Agent,
    /// A server itself.
    Server,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Server => "server",
        }
    }
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

fn field(secret: &Value, name: &str) -> String {
    use base64::Engine as _;
    let coded = secret["data"][name].as_str().unwrap_or_default();
    let bytes = base64::engine::general_purpose::STANDARD.decode(coded).unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

/// Whether a stored claim is that of an agent, which is reached through its tunnel.
pub fn is_agent(secret: &Value) -> bool {
    field(secret, "role") != Role::Server.name()
}

/// Whether a stored claim is that of this machine.
fn judge(secret: &Value, claim: &Claim) -> Result<(), Error> {
    let machine = field(secret, "machine-id");
    if !machine.is_empty() && !claim.machine_id.is_empty() && machine != claim.machine_id {
        return Err(Error::OtherMachine(claim.node.clone()));
    }
    if !fits(&field(secret, "hash"), &claim.password) {
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

    /// Claims a node name, or verifies an earlier claim. A server takes back what was its own, though its password or
    /// machine changed: it holds the cluster's state, so nobody can pose as it.
    ///
    /// # Errors
    /// Why not.
    pub async fn claim(&self, claim: &Claim, role: Role) -> Result<(), Error> {
        Self::check(claim)?;
        let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets");
        if let Some(stored) = self.stored(&claim.node).await? {
            let judged = judge(&stored, claim);
            if judged.is_ok() || role == Role::Agent || is_agent(&stored) {
                return judged;
            }
            tracing::warn!(node = claim.node, "the server's own node has another password or machine id now");
            let own = format!("{path}/{}", secret_name(&claim.node));
            let replaced = self.api.send(Method::PUT, &own, &document(claim, role)).await;
            return replaced.map(|_| ()).map_err(|e| Error::Api(e.message.clone()));
        }
        if role == Role::Agent {
            self.not_another(claim).await?;
        }
        match self.api.send(Method::POST, &path, &document(claim, role)).await {
            Ok(_) => Ok(()),
            // Another machine was a moment faster.
            Err(e) if e.reason == "AlreadyExists" => self.verify(claim).await,
            Err(e) => Err(Error::Api(e.message.clone())),
        }
    }

    /// A node without password, such as a foreign kubelet's, keeps its name if its machine id differs.
    async fn not_another(&self, claim: &Claim) -> Result<(), Error> {
        let node = self.api.get(&format!("/api/v1/nodes/{}", claim.node)).await;
        let node = node.map_err(|e| Error::Api(e.message.clone()))?.unwrap_or_default();
        let machine = node.pointer("/status/nodeInfo/machineID").and_then(Value::as_str).unwrap_or_default();
        if !machine.is_empty() && !claim.machine_id.is_empty() && machine != claim.machine_id {
            return Err(Error::OtherMachine(claim.node.clone()));
        }
        Ok(())
    }
}

/// The secret of a claim.
fn document(claim: &Claim, role: Role) -> Value {
    let mut salt = [0u8; 16];
    rand::fill(&mut salt);
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": SECRET_TYPE,
        "metadata": {"name": secret_name(&claim.node), "namespace": NAMESPACE},
        "stringData": {
            "hash": hash(&hex(&salt), &claim.password), "machine-id": claim.machine_id, "role": role.name(),
        },
    })
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
        assert!(is_agent(&secret("m1")));
        assert!(!is_agent(&json!({"data": {"role": b("server")}})));
        assert!(NodePasswords::check(&claim("short", "")).is_err());
        assert!(NodePasswords::check(&Claim { node: "A b".into(), ..claim(right, "") }).is_err());
    }
}
