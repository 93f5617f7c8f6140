//! Credentials that a machine joins with: the cluster's join tokens (HTTP basic) and kubeadm's bootstrap tokens
//! (bearer), each optionally bound to a node by its password. Entry point: [`JoinTokens`].

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::request::Parts;
use knarr_machinery::UserInfo;
use rustls_pki_types::CertificateDer;
use serde_json::Value;

use crate::authn::{AuthError, Authenticator, authenticated, bearer_token};
use crate::node_password::{self, Claim, NodePasswords};
use crate::serviceaccount::Lookup;

/// Where bootstrap tokens are.
pub const NAMESPACE: &str = "kube-system";
/// Type of their secrets.
pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
/// Group of everybody who joins.
pub const GROUP: &str = "system:bootstrappers";
/// Group of those who join with a token of this cluster's own.
pub const DEFAULT_GROUP: &str = "system:bootstrappers:knarr:default-node-token";
/// Fact about a user whose node password was checked: the node's name.
pub const NODE_EXTRA: &str = "knarr.io/node-name";
/// Header with the name of the node that joins.
pub const NODE_HEADER: &str = "knarr-node-name";
/// Header with that node's password.
pub const PASSWORD_HEADER: &str = "knarr-node-password";
/// Header with that node's machine id.
pub const MACHINE_HEADER: &str = "knarr-machine-id";

/// The passwords of the join tokens.
#[derive(Clone, PartialEq, Eq)]
pub struct Passwords {
    /// Of `server:`, for servers and agents.
    pub server: String,
    /// Of `node:`, for agents; the server's own when there is none of its own.
    pub agent: String,
}

/// Why credentials do not let a machine join.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Wrong, or unknown.
    #[error("the token is not valid for this cluster")]
    Token,
    /// Was right once.
    #[error("the bootstrap token {0} has expired")]
    Expired(String),
    /// Right, but made for something else.
    #[error("the bootstrap token {0} may not be used for authentication")]
    Usage(String),
    /// Another machine has this node name.
    #[error("{0}")]
    Node(String),
    /// The server could not look.
    #[error("the token could not be checked: {0}")]
    Unavailable(String),
}

/// Judges join credentials.
pub struct JoinTokens {
    passwords: ArcSwap<Passwords>,
    lookup: Arc<dyn Lookup>,
    nodes: NodePasswords,
}

fn same(a: &str, b: &str) -> bool {
    // Comparing digests takes the same time wherever the texts differ.
    let digest = |t: &str| ring::digest::digest(&ring::digest::SHA256, t.as_bytes());
    digest(a).as_ref() == digest(b).as_ref()
}

impl JoinTokens {
    /// Judges by these passwords and by what `lookup` finds.
    pub fn new(passwords: Passwords, lookup: Arc<dyn Lookup>, nodes: NodePasswords) -> Self {
        Self { passwords: ArcSwap::from_pointee(passwords), lookup, nodes }
    }

    /// The passwords in force.
    pub fn passwords(&self) -> Arc<Passwords> {
        self.passwords.load_full()
    }

    /// Puts other passwords in force.
    pub fn set_passwords(&self, passwords: Passwords) {
        self.passwords.store(Arc::new(passwords));
    }

    /// The node passwords.
    pub fn nodes(&self) -> &NodePasswords {
        &self.nodes
    }

    /// Whom the credentials stand for; None when there are none of this kind.
    ///
    /// # Errors
    /// Why they do not count.
    pub async fn identify(&self, headers: &HeaderMap) -> Result<Option<UserInfo>, Refusal> {
        let mut user = if let Some((name, password)) = basic(headers) {
            self.by_password(&name, &password)?
        } else if let Some(token) = bearer_token(headers)
            && let Some((id, secret)) = knarr_pki::token::bootstrap(&token)
        {
            self.by_bootstrap_token(id, secret).await?
        } else {
            return Ok(None);
        };
        if let Some(claim) = claim(headers) {
            self.nodes.verify(&claim).await.map_err(refusal)?;
            user.extra.insert(NODE_EXTRA.to_string(), vec![claim.node]);
        }
        Ok(Some(authenticated(user)))
    }

    fn by_password(&self, name: &str, password: &str) -> Result<UserInfo, Refusal> {
        let passwords = self.passwords.load();
        let right = match name {
            "server" => same(&passwords.server, password),
            "node" => same(&passwords.agent, password) || same(&passwords.server, password),
            _ => false,
        };
        if !right {
            return Err(Refusal::Token);
        }
        Ok(UserInfo {
            username: format!("system:knarr:{name}"),
            groups: vec![GROUP.to_string(), DEFAULT_GROUP.to_string()],
            ..UserInfo::default()
        })
    }

    async fn by_bootstrap_token(&self, id: &str, secret: &str) -> Result<UserInfo, Refusal> {
        let name = format!("bootstrap-token-{id}");
        let found = self.lookup.find("Secret", NAMESPACE, &name).await;
        let found = found.map_err(|e| Refusal::Unavailable(e.message.clone()))?.ok_or(Refusal::Token)?;
        judge(&found, id, secret, jiff::Timestamp::now())
    }
}

fn refusal(error: node_password::Error) -> Refusal {
    match error {
        node_password::Error::Api(e) => Refusal::Unavailable(e),
        other => Refusal::Node(other.to_string()),
    }
}

/// What the secret of a bootstrap token says of somebody who shows this token.
fn judge(object: &Value, id: &str, secret: &str, now: jiff::Timestamp) -> Result<UserInfo, Refusal> {
    let field = |name: &str| {
        let coded = object["data"][name].as_str().unwrap_or_default();
        STANDARD.decode(coded).ok().and_then(|b| String::from_utf8(b).ok()).unwrap_or_default()
    };
    let gone = object["metadata"].get("deletionTimestamp").is_some_and(|t| !t.is_null());
    if gone
        || object["type"] != SECRET_TYPE
        || field("token-id") != id
        || !same(&field("token-secret"), secret)
    {
        return Err(Refusal::Token);
    }
    let expiration = field("expiration");
    if !expiration.is_empty() && !expiration.parse::<jiff::Timestamp>().is_ok_and(|at| at > now) {
        return Err(Refusal::Expired(id.to_string()));
    }
    if field("usage-bootstrap-authentication") != "true" {
        return Err(Refusal::Usage(id.to_string()));
    }
    let mut groups = vec![GROUP.to_string()];
    for group in field("auth-extra-groups").split(',').filter(|g| !g.is_empty()) {
        if !is_extra_group(group) {
            return Err(Refusal::Usage(id.to_string()));
        }
        groups.push(group.to_string());
    }
    Ok(UserInfo { username: format!("system:bootstrap:{id}"), groups, ..UserInfo::default() })
}

/// Whether a token may give this group: `system:bootstrappers:` and up to 256 of `[a-z0-9:-]`, the last no sign.
pub fn is_extra_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else { return false };
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let fits = rest.len() <= 256 && rest.bytes().all(|b| plain(b) || b == b':' || b == b'-');
    fits && rest.bytes().last().is_some_and(plain)
}

/// User and password of HTTP basic authentication.
fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let header = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, coded) = header.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(coded.trim()).ok()?).ok()?;
    text.split_once(':').map(|(user, password)| (user.to_string(), password.to_string()))
}

/// What the headers claim of a node; None when they name none.
pub fn claim(headers: &HeaderMap) -> Option<Claim> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_string();
    let node = text(NODE_HEADER);
    (!node.is_empty()).then(|| Claim {
        node,
        password: text(PASSWORD_HEADER),
        machine_id: text(MACHINE_HEADER),
    })
}

#[async_trait]
impl Authenticator for JoinTokens {
    async fn authenticate(
        &self,
        parts: &Parts,
        _: &[CertificateDer<'static>],
    ) -> Result<Option<UserInfo>, AuthError> {
        self.identify(&parts.headers).await.map_err(|e| AuthError(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bootstrap_tokens_are_judged_as_upstream() {
        let b = |t: &str| STANDARD.encode(t);
        let base = json!({"type": SECRET_TYPE, "metadata": {}, "data": {
            "token-id": b("abcdef"), "token-secret": b("0123456789abcdef"),
            "usage-bootstrap-authentication": b("true"), "expiration": b("2030-01-01T00:00:00Z"),
            "auth-extra-groups": b("system:bootstrappers:a,system:bootstrappers:b-c"),
        }});
        let now: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let check = |secret: &str, path: &str, value: Value| {
            let mut object = base.clone();
            if !path.is_empty() {
                *object.pointer_mut(path).unwrap() = value;
            }
            judge(&object, "abcdef", secret, now)
        };
        let right = "0123456789abcdef";
        let user = check(right, "", Value::Null).unwrap();
        assert_eq!(user.username, "system:bootstrap:abcdef");
        assert_eq!(user.groups, [GROUP, "system:bootstrappers:a", "system:bootstrappers:b-c"]);
        let cases = [
            (check("0123456789abcdeX", "", Value::Null), Refusal::Token),
            (check(right, "/type", json!("Opaque")), Refusal::Token),
            (check(right, "/metadata", json!({"deletionTimestamp": "x"})), Refusal::Token),
            (check(right, "/data/token-id", json!(b("ffffff"))), Refusal::Token),
            (
                check(right, "/data/expiration", json!(b("2025-01-01T00:00:00Z"))),
                Refusal::Expired("abcdef".into()),
            ),
            (check(right, "/data/expiration", json!(b("soon"))), Refusal::Expired("abcdef".into())),
            (
                check(right, "/data/usage-bootstrap-authentication", json!(b("no"))),
                Refusal::Usage("abcdef".into()),
            ),
            (
                check(right, "/data/auth-extra-groups", json!(b("system:masters"))),
                Refusal::Usage("abcdef".into()),
            ),
        ];
        for (i, (got, want)) in cases.into_iter().enumerate() {
            assert_eq!(got.unwrap_err(), want, "case {i}");
        }
        for (group, want) in [
            ("system:bootstrappers:a:b", true),
            ("system:bootstrappers:", false),
            ("system:bootstrappers:a-", false),
            ("system:bootstrappers:A", false),
            ("system:nodes", false),
        ] {
            assert_eq!(is_extra_group(group), want, "{group}");
        }
    }

    #[test]
    fn basic_headers() {
        let header = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("authorization", text.parse().unwrap());
            basic(&headers)
        };
        let coded = STANDARD.encode("node:a:b");
        assert_eq!(header(&format!("Basic {coded}")), Some(("node".into(), "a:b".into())));
        assert_eq!(header(&format!("Bearer {coded}")), None);
        assert_eq!(header("Basic !"), None);
    }
}
