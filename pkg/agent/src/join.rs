//! Joining a cluster: the CA is read and compared with the token before any secret is sent; then the node name is
//! claimed and the cluster's settings are read. Entry point: [`join`].

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use knarr_client::ClusterConfig;
use knarr_pki::file::{read, write_atomic};
use knarr_pki::token::{Credentials, ca_hash};
use knarr_pki::{Token, token};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::remote::{Answer, SupervisorClient, basic, bearer};

/// Header with the name of the node that joins.
const NODE_HEADER: &str = "knarr-node-name";
const PASSWORD_HEADER: &str = "knarr-node-password";
const MACHINE_HEADER: &str = "knarr-machine-id";

/// Who joins what.
#[derive(Debug, Clone)]
pub struct Joining {
    /// `https://host:port`.
    pub server: String,
    /// The join token.
    pub token: Token,
    /// The node name that is claimed.
    pub node_name: String,
    /// Where the node's password is, or will be.
    pub password_file: PathBuf,
    /// This machine's id; empty when it has none.
    pub machine_id: String,
}

/// What an agent knows of its cluster; kept on disk, so that it starts while no server answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Membership {
    /// CA of the servers, PEM.
    pub ca_pem: String,
    /// What the nodes share.
    pub config: ClusterConfig,
    /// `host:port` of all API servers.
    pub servers: Vec<String>,
}

impl Membership {
    /// What an earlier run kept; None if there was none.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn load(path: &Path) -> Result<Option<Self>, Error> {
        let Some(text) = read(path)? else { return Ok(None) };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|e| Error::Content { path: path.display().to_string(), detail: e.to_string() })
    }

    /// Keeps it for the next start.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn store(&self, path: &Path) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::Content { path: path.display().to_string(), detail: e.to_string() })?;
        Ok(write_atomic(path, text.as_bytes(), 0o600)?)
    }
}

/// This machine's id; empty when it has none.
pub fn machine_id() -> String {
    ["/etc/machine-id", "/var/lib/dbus/machine-id"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .map(|text| text.trim().to_string())
        .find(|id| !id.is_empty())
        .unwrap_or_default()
}

/// The node's password, made at the first use.
///
/// # Errors
/// A file that cannot be read or written.
pub fn node_password(path: &Path) -> Result<String, Error> {
    if let Some(text) = read(path)? {
        let text = text.trim().to_string();
        if !text.is_empty() {
            return Ok(text);
        }
    }
    let password = token::password();
    write_atomic(path, format!("{password}\n").as_bytes(), 0o600)?;
    Ok(password)
}

/// The headers that claim the node name.
///
/// # Errors
/// The password file, or a name that no header can carry.
pub fn claim_headers(joining: &Joining) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    let password = node_password(&joining.password_file)?;
    for (name, text) in [
        (NODE_HEADER, &joining.node_name),
        (PASSWORD_HEADER, &password),
        (MACHINE_HEADER, &joining.machine_id),
    ] {
        let value = HeaderValue::from_str(text)
            .map_err(|_| Error::Refused(format!("{name}: {text:?} cannot be sent in a header")))?;
        headers.insert(HeaderName::from_static(name), value);
    }
    Ok(headers)
}

/// All headers of a request that joins: token and claim.
///
/// # Errors
/// As [`claim_headers`].
pub fn headers(joining: &Joining) -> Result<HeaderMap, Error> {
    let mut headers = claim_headers(joining)?;
    let authorization = match &joining.token.credentials {
        Credentials::Password { user, password } => basic(user, password),
        Credentials::Bootstrap { id, secret } => bearer(&format!("{id}.{secret}")),
    };
    let (name, value) =
        authorization.ok_or_else(|| Error::Refused("the token cannot be sent in a header".to_string()))?;
    headers.insert(name, value);
    Ok(headers)
}

/// Reads the server's CA without trust and compares it with the token.
///
/// # Errors
/// The server cannot be reached, or its CA is not that of the token.
pub async fn trusted_ca(server: &str, token: &Token) -> Result<String, Error> {
    let client = SupervisorClient::untrusting(server)?;
    let answer = client.send(Method::GET, "/cacerts", Bytes::new()).await?;
    let ca = String::from_utf8_lossy(&answer.body).to_string();
    if answer.status != 200 || !ca.contains("BEGIN CERTIFICATE") {
        let detail =
            format!("/cacerts answered {} without a certificate: is it a knarr server?", answer.status);
        return Err(Error::Server { server: server.to_string(), detail });
    }
    match &token.ca_hash {
        None => {
            tracing::warn!(
                server,
                "the token does not name the CA: whoever answers at this address is trusted; use the server's node-token file instead"
            );
        }
        Some(wanted) if *wanted == ca_hash(&ca) => {}
        Some(wanted) => {
            return Err(Error::WrongCa {
                server: server.to_string(),
                wanted: wanted.clone(),
                found: ca_hash(&ca),
            });
        }
    }
    Ok(ca)
}

fn accepted(server: &str, answer: Answer) -> Result<Answer, Error> {
    match answer.status {
        200 => Ok(answer),
        401 | 403 => Err(Error::Refused(answer.line())),
        status => Err(Error::Server {
            server: server.to_string(),
            detail: format!("{status} {}: {}", reason(status), answer.line()),
        }),
    }
}

fn reason(status: u16) -> &'static str {
    StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or_default()
}

/// Joins: checks the CA, claims the node name, reads the cluster's settings.
///
/// # Errors
/// One line that says what is wrong: server unreachable, wrong CA, token refused, node name taken.
pub async fn join(joining: &Joining) -> Result<Membership, Error> {
    let server = joining.server.as_str();
    let ca_pem = trusted_ca(server, &joining.token).await?;
    let client = SupervisorClient::new(server, &ca_pem, None, headers(joining)?)?;
    let claimed = client.send(Method::POST, "/v1-knarr/node", Bytes::new()).await?;
    accepted(server, claimed)?;
    let config = accepted(server, client.send(Method::GET, "/v1-knarr/config", Bytes::new()).await?)?;
    let servers = accepted(server, client.send(Method::GET, "/v1-knarr/apiservers", Bytes::new()).await?)?;
    let unclear = |what: &str, e: serde_json::Error| Error::Server {
        server: server.to_string(),
        detail: format!("{what}: {e}"),
    };
    Ok(Membership {
        ca_pem,
        config: serde_json::from_slice(&config.body).map_err(|e| unclear("/v1-knarr/config", e))?,
        servers: serde_json::from_slice(&servers.body).map_err(|e| unclear("/v1-knarr/apiservers", e))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_made_once_and_kept_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node/password");
        let first = node_password(&path).unwrap();
        assert_eq!(first.len(), 32);
        assert_eq!(node_password(&path).unwrap(), first);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let server = format!("https://{}", listener.local_addr().unwrap());
        drop(listener);
        let error = trusted_ca(&server, &Token::parse("pw").unwrap()).await.unwrap_err();
        assert!(matches!(error, Error::Server { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(&server) && text.contains("refused") && !text.contains('\n'), "{text}");
    }
}
