//! What machines that join ask before they have a certificate: `/ping`, `/cacerts` and `/v1-knarr/...`, on the API's
//! own listener. Entry point: [`Supervisor::router`].

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post, put};
use axum::{Json, Router};
use knarr_auth::join::{self, Passwords, Refusal};
use knarr_auth::{JoinTokens, node_password};
use knarr_client::ClusterConfig;
use knarr_machinery::UserInfo;
use serde_json::json;

use crate::identity;
use crate::server::ApiServer;
use crate::tunnel::{self, Tunnels};

/// Keeps changed passwords where the next start finds them.
pub type StorePasswords = Arc<dyn Fn(&Passwords) -> Result<(), String> + Send + Sync>;

/// The supervisor's endpoints.
pub struct Supervisor {
    /// The server.
    pub api: ApiServer,
    /// CA of the servers, PEM.
    pub ca_pem: String,
    /// Who may join.
    pub join: Arc<JoinTokens>,
    /// What agents must share.
    pub config: ClusterConfig,
    /// Tunnels to agents.
    pub tunnels: Arc<Tunnels>,
    /// Where changed passwords go.
    pub store: StorePasswords,
}

/// What tells who asks: headers and certificates, without the body.
fn asker(request: &Request) -> Parts {
    let mut parts = http::Request::new(()).into_parts().0;
    parts.headers = request.headers().clone();
    if let Some(certificates) = request.extensions().get::<identity::PeerCertificates>() {
        parts.extensions.insert(certificates.clone());
    }
    parts
}

/// A refusal in one line of text.
fn refuse(status: StatusCode, text: impl Into<String>) -> Response {
    (status, format!("{}\n", text.into())).into_response()
}

fn refusal(error: &Refusal) -> Response {
    let status = match error {
        Refusal::Token | Refusal::Expired(_) | Refusal::Usage(_) => StatusCode::UNAUTHORIZED,
        Refusal::Node(_) => StatusCode::FORBIDDEN,
        Refusal::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    refuse(status, error.to_string())
}

impl Supervisor {
    /// The endpoints, with the API behind them for all other paths.
    pub fn router(self) -> Router {
        let api = self.api.router();
        Router::new()
            .route("/ping", get(|| async { "pong" }))
            .route("/cacerts", get(ca))
            .route("/v1-knarr/config", get(config))
            .route("/v1-knarr/apiservers", get(servers))
            .route("/v1-knarr/node", post(claim))
            .route("/v1-knarr/token", put(rotate))
            .route("/v1-knarr/connect", any(connect))
            .with_state(Arc::new(self))
            .fallback_service(api)
    }

    /// Whom the request is from: a join token, or whoever the API knows.
    async fn user(&self, asker: &Parts) -> Result<UserInfo, Response> {
        match self.join.identify(&asker.headers).await {
            Ok(Some(user)) => return Ok(user),
            Ok(None) => {}
            Err(error) => return Err(refusal(&error)),
        }
        self.known(asker).await
    }

    async fn known(&self, asker: &Parts) -> Result<UserInfo, Response> {
        let found = identity::authenticate(asker, &self.api.authenticators()).await;
        found.map_err(|_| refuse(StatusCode::UNAUTHORIZED, "a join token or a client certificate is needed"))
    }

    /// A node or somebody who joins.
    async fn member(&self, asker: &Parts) -> Result<UserInfo, Response> {
        let user = self.user(asker).await?;
        let allowed = [join::GROUP, "system:nodes", "system:masters"];
        if allowed.iter().any(|g| user.in_group(g)) {
            return Ok(user);
        }
        Err(refuse(StatusCode::FORBIDDEN, format!("{} is neither a node nor joining", user.username)))
    }
}

async fn ca(State(supervisor): State<Arc<Supervisor>>) -> Response {
    ([(http::header::CONTENT_TYPE, "application/x-pem-file")], supervisor.ca_pem.clone()).into_response()
}

async fn config(State(supervisor): State<Arc<Supervisor>>, request: Request) -> Response {
    match supervisor.member(&asker(&request)).await {
        Ok(_) => Json(supervisor.config.clone()).into_response(),
        Err(refused) => refused,
    }
}

/// Addresses of all API servers, from the endpoints of the `kubernetes` service.
async fn servers(State(supervisor): State<Arc<Supervisor>>, request: Request) -> Response {
    if let Err(refused) = supervisor.member(&asker(&request)).await {
        return refused;
    }
    let endpoints =
        crate::tokens::core_object(supervisor.api.inner(), "endpoints", "default", "kubernetes").await;
    match endpoints {
        Ok(endpoints) => Json(addresses(&endpoints)).into_response(),
        Err(e) if e.is_not_found() => Json(Vec::<String>::new()).into_response(),
        Err(e) => refuse(StatusCode::SERVICE_UNAVAILABLE, e.message.clone()),
    }
}

fn addresses(endpoints: &serde_json::Value) -> Vec<String> {
    let mut out = Vec::new();
    for subset in endpoints["subsets"].as_array().into_iter().flatten() {
        let Some(port) = subset.pointer("/ports/0/port").and_then(serde_json::Value::as_u64) else {
            continue;
        };
        for address in subset["addresses"].as_array().into_iter().flatten() {
            if let Some(ip) = address["ip"].as_str() {
                out.push(if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") });
            }
        }
    }
    out
}

/// A machine claims its node name, with a join token or, later, with the node's certificate.
async fn claim(State(supervisor): State<Arc<Supervisor>>, request: Request) -> Response {
    let asker = asker(&request);
    drop(request);
    let Some(claim) = join::claim(&asker.headers) else {
        return refuse(StatusCode::BAD_REQUEST, format!("header {} is missing", join::NODE_HEADER));
    };
    let without = without_claim(&asker.headers);
    let user = match supervisor.join.identify(&without).await {
        Ok(Some(user)) => Ok(user),
        Ok(None) => supervisor.known(&asker).await,
        Err(error) => Err(refusal(&error)),
    };
    let user = match user {
        Ok(user) => user,
        Err(refused) => return refused,
    };
    let own = user.in_group("system:nodes") && user.username == format!("system:node:{}", claim.node);
    if !own && !user.in_group(join::GROUP) {
        return refuse(StatusCode::FORBIDDEN, format!("{} may not claim node {}", user.username, claim.node));
    }
    match supervisor.join.nodes().claim(&claim, node_password::Role::Agent).await {
        Ok(()) => Json(json!({"node": claim.node})).into_response(),
        Err(error @ node_password::Error::Api(_)) => {
            refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
        }
        Err(error) => refuse(StatusCode::FORBIDDEN, error.to_string()),
    }
}

fn without_claim(headers: &HeaderMap) -> HeaderMap {
    let mut out = headers.clone();
    out.remove(join::NODE_HEADER);
    out
}

/// Exchanges the join password: `{"password": "..."}`, by an administrator.
async fn rotate(State(supervisor): State<Arc<Supervisor>>, request: Request) -> Response {
    let asker = asker(&request);
    let body = axum::body::to_bytes(request.into_body(), 4096).await.unwrap_or_default();
    match supervisor.known(&asker).await {
        Ok(user) if user.in_group("system:masters") => {}
        Ok(user) => {
            return refuse(StatusCode::FORBIDDEN, format!("{} may not rotate the token", user.username));
        }
        Err(refused) => return refused,
    }
    let document: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let password = document["password"].as_str().unwrap_or_default().to_string();
    let plain = !password.contains([':', '\n', '\r', ' ']);
    if password.len() < 8 || !plain {
        return refuse(
            StatusCode::BAD_REQUEST,
            "password: at least 8 characters, without colons and blanks, are needed",
        );
    }
    let old = supervisor.join.passwords();
    let agent = if old.agent == old.server { password.clone() } else { old.agent.clone() };
    let new = Passwords { server: password, agent };
    if let Err(error) = (supervisor.store)(&new) {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, error);
    }
    supervisor.join.set_passwords(new);
    tracing::info!("the join token was rotated");
    Json(json!({"rotated": true})).into_response()
}

/// An agent opens its tunnel.
async fn connect(State(supervisor): State<Arc<Supervisor>>, mut request: Request) -> Response {
    let upgrade = tunnel::Upgrade::of(&mut request);
    let asker = asker(&request);
    drop(request);
    let user = match supervisor.known(&asker).await {
        Ok(user) => user,
        Err(refused) => return refused,
    };
    let node = user.username.strip_prefix("system:node:").filter(|_| user.in_group("system:nodes"));
    let Some(node) = node.map(str::to_string) else {
        return refuse(StatusCode::FORBIDDEN, format!("{} is no node", user.username));
    };
    supervisor.tunnels.accept(node, upgrade)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_servers() {
        let endpoints = json!({"subsets": [
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "ports": [{"port": 6443}]},
            {"addresses": [{"ip": "10.0.0.2"}]},
        ]});
        assert_eq!(addresses(&endpoints), ["10.0.0.1:6443", "[fd00::1]:6443"]);
    }
}
