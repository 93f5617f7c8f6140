//! The server's side of joining: token files, who may join, and the supervisor's endpoints.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use knarr_apiserver::supervisor::Supervisor;
use knarr_apiserver::tunnel::Tunnels;
use knarr_auth::join::Passwords;
use knarr_auth::node_password::{Claim, Role};
use knarr_auth::{ClientLookup, JoinTokens, NodePasswords};
use knarr_client::ClusterConfig;
use knarr_pki::file::{read, write_atomic};
use knarr_pki::token::Credentials;
use knarr_pki::{Token, token};

use crate::server::Wiring;

/// The three token files.
pub struct TokenFiles {
    dir: PathBuf,
    ca_pem: String,
}

impl TokenFiles {
    /// Below `<data-dir>/server`.
    pub fn new(data_dir: &Path, ca_pem: &str) -> Self {
        Self { dir: data_dir.join("server"), ca_pem: ca_pem.to_string() }
    }

    /// The password in a file, or in a token that was given.
    fn password(text: &str, origin: &str) -> anyhow::Result<String> {
        match Token::parse(text).map_err(|e| anyhow::anyhow!("{origin}: {e}"))?.credentials {
            Credentials::Password { password, .. } => Ok(password),
            Credentials::Bootstrap { .. } => {
                anyhow::bail!(
                    "{origin}: a bootstrap token cannot be the cluster's own; use `knarr token create`"
                )
            }
        }
    }

    /// The passwords of this cluster: those given, else those of an earlier start, else new ones. Written in secure form.
    ///
    /// # Errors
    /// A file that cannot be read or written, or a token that is none.
    pub fn ensure(&self, token: Option<&str>, agent_token: Option<&str>) -> anyhow::Result<Passwords> {
        let server = match (token, read(&self.dir.join("token"))?) {
            (Some(given), _) => Self::password(given, "--token")?,
            (None, Some(text)) => Self::password(&text, &self.dir.join("token").display().to_string())?,
            (None, None) => token::password(),
        };
        let agent = match (agent_token, read(&self.dir.join("agent-token"))?) {
            (Some(given), _) => Self::password(given, "--agent-token")?,
            (None, Some(text)) if token.is_none() => {
                Self::password(&text, &self.dir.join("agent-token").display().to_string())?
            }
            _ => server.clone(),
        };
        let passwords = Passwords { server, agent };
        self.store(&passwords)?;
        Ok(passwords)
    }

    /// Writes the files.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn store(&self, passwords: &Passwords) -> anyhow::Result<()> {
        let secure = |user: &str, password: &str| Token::secure(&self.ca_pem, user, password) + "\n";
        for (name, text) in [
            ("token", secure("server", &passwords.server)),
            ("node-token", secure("node", &passwords.agent)),
            ("agent-token", secure("node", &passwords.agent)),
        ] {
            write_atomic(&self.dir.join(name), text.as_bytes(), 0o600)?;
        }
        Ok(())
    }
}

/// Who may join this server.
///
/// # Errors
/// The token files.
pub fn tokens(wiring: &Wiring) -> anyhow::Result<Arc<JoinTokens>> {
    let config = &wiring.config;
    let files = TokenFiles::new(&config.data_dir, wiring.pki.server_ca.cert_pem());
    let passwords =
        files.ensure(config.token.as_deref(), config.agent_token.as_deref()).context("join tokens")?;
    let client = wiring.client("system:apiserver", &["system:masters"]);
    let lookup = Arc::new(ClientLookup::new(client.clone()));
    Ok(Arc::new(JoinTokens::new(passwords, lookup, NodePasswords::new(client))))
}

/// Claims the name of the server's own node, so that no machine joins under it.
///
/// # Errors
/// An agent has the name.
pub async fn claim_own(wiring: &Wiring, join: &JoinTokens) -> anyhow::Result<()> {
    let claim = Claim {
        node: wiring.node_name.clone(),
        password: knarr_agent::join::node_password(&wiring.config.node_password_file())?,
        machine_id: knarr_agent::join::machine_id(),
    };
    join.nodes().claim(&claim, Role::Server).await.context("the server's own node")
}

/// The supervisor's endpoints in front of the API.
pub fn router(wiring: &Wiring, join: Arc<JoinTokens>) -> axum::Router {
    let config = &wiring.config;
    let tunnels = Tunnels::new(wiring.process.shutdown.clone());
    wiring.api.set_tunnels(tunnels.clone());
    let files = TokenFiles::new(&config.data_dir, wiring.pki.server_ca.cert_pem());
    let shared = ClusterConfig {
        cluster_cidr: config.cluster_cidr.to_string(),
        service_cidr: config.service_cidr.to_string(),
        cluster_dns: config.dns_address().to_string(),
        cluster_domain: config.cluster_domain.clone(),
        flannel_backend: config.flannel_backend.clone(),
        disable: config.disable.clone(),
        client_ca_pem: wiring.pki.client_ca.cert_pem().to_string(),
        version: crate::VERSION.to_string(),
    };
    Supervisor {
        api: wiring.api.clone(),
        ca_pem: wiring.pki.server_ca.cert_pem().to_string(),
        join,
        config: shared,
        tunnels,
        store: Arc::new(move |passwords| files.store(passwords).map_err(|e| format!("{e:#}"))),
    }
    .router()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_files() {
        let dir = tempfile::tempdir().unwrap();
        let files = TokenFiles::new(dir.path(), "ca");
        let first = files.ensure(None, None).unwrap();
        assert_eq!(first.server, first.agent);
        assert!(files.ensure(None, None).unwrap() == first);
        let second = files.ensure(Some("chosen-one"), None).unwrap();
        assert_eq!((second.server.as_str(), second.agent.as_str()), ("chosen-one", "chosen-one"));
        let third = files.ensure(None, Some("for-agents")).unwrap();
        assert_eq!((third.server.as_str(), third.agent.as_str()), ("chosen-one", "for-agents"));
        assert!(files.ensure(None, None).unwrap() == third);
        let text = std::fs::read_to_string(dir.path().join("server/node-token")).unwrap();
        assert_eq!(text.trim(), format!("K10{}::node:for-agents", token::ca_hash("ca")));
        let error = files.ensure(Some("abcdef.0123456789abcdef"), None).err().unwrap().to_string();
        assert!(error.starts_with("--token: a bootstrap token"), "{error}");
    }
}
