//! Tunnels that agents open to this server, so that it reaches kubelets, pods and services without an open port on
//! the agent. The agent upgrades one connection; on it the roles turn round: it serves HTTP/2, and this server sends
//! `CONNECT host:port` for every stream. Entry points: [`Tunnels::accept`] and [`Tunnels::dial`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Name of the protocol in the `Upgrade` header.
pub const PROTOCOL: &str = "knarr-tunnel/1";
/// A silent tunnel is asked whether it lives this often, and given up after [`ANSWER`].
const HEARTBEAT: Duration = Duration::from_secs(15);
const ANSWER: Duration = Duration::from_secs(10);
/// How long a request waits for an agent to dial again.
const REDIAL: Duration = Duration::from_secs(3);
/// How long an agent may take to reach a target.
const DIAL: Duration = Duration::from_secs(10);
const WINDOW: u32 = 1 << 20;

type Sender = SendRequest<Empty<bytes::Bytes>>;
/// A stream through a tunnel.
pub type Stream = TokioIo<hyper::upgrade::Upgraded>;

#[derive(Clone)]
struct Session {
    number: u64,
    sender: Sender,
    end: CancellationToken,
}

/// A request that asks for a tunnel.
pub struct Upgrade(hyper::upgrade::OnUpgrade);

impl Upgrade {
    /// Takes the connection of a request, if it asks for a tunnel and can be upgraded.
    pub fn of(request: &mut Request) -> Option<Self> {
        let asked = request.headers().get(UPGRADE).is_some_and(|v| v == PROTOCOL);
        let upgrade = request.extensions_mut().remove::<hyper::upgrade::OnUpgrade>();
        upgrade.filter(|_| asked).map(Self)
    }
}

/// Why a stream could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The node's agent is not connected.
    #[error("the tunnel to node {0} is down: its agent is not connected to this server")]
    Down(String),
    /// The agent could not reach the target.
    #[error("node {node} cannot reach {target}: {detail}")]
    Target {
        /// Node name.
        node: String,
        /// `host:port`.
        target: String,
        /// What the agent said.
        detail: String,
    },
}

/// The tunnels to this server, by node.
pub struct Tunnels {
    sessions: Mutex<HashMap<String, Session>>,
    changed: watch::Sender<u64>,
    numbers: AtomicU64,
    shutdown: CancellationToken,
}

impl Tunnels {
    /// No tunnels yet; all end with `shutdown`.
    pub fn new(shutdown: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            sessions: Mutex::default(),
            changed: watch::Sender::new(0),
            numbers: AtomicU64::new(0),
            shutdown,
        })
    }

    /// Whether a node's agent is connected.
    pub fn is_up(&self, node: &str) -> bool {
        self.sessions.lock().contains_key(node)
    }

    /// Names of the nodes that are connected, sorted.
    pub fn nodes(&self) -> Vec<String> {
        let mut names: Vec<String> = self.sessions.lock().keys().cloned().collect();
        names.sort();
        names
    }

    /// Turns a node's request into its tunnel; a newer tunnel of the same node replaces the older.
    pub fn accept(self: &Arc<Self>, node: String, upgrade: Option<Upgrade>) -> Response {
        let Some(Upgrade(upgrade)) = upgrade else {
            return (
                StatusCode::UPGRADE_REQUIRED,
                format!("upgrade to {PROTOCOL} over HTTP/1.1 is needed\n"),
            )
                .into_response();
        };
        let tunnels = self.clone();
        tokio::spawn(async move {
            match upgrade.await {
                Ok(upgraded) => tunnels.keep(node, upgraded).await,
                Err(error) => tracing::warn!(%node, %error, "tunnel was not opened"),
            }
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
        response
    }

    async fn keep(self: Arc<Self>, node: String, upgraded: hyper::upgrade::Upgraded) {
        let handshake = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW * 4)
            .keep_alive_interval(HEARTBEAT)
            .keep_alive_timeout(ANSWER)
            .keep_alive_while_idle(true)
            .handshake(upgraded);
        let (sender, connection) = match handshake.await {
            Ok(pair) => pair,
            Err(error) => return tracing::warn!(%node, %error, "tunnel was not opened"),
        };
        let end = CancellationToken::new();
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let session = Session { number, sender, end: end.clone() };
        if let Some(older) = self.sessions.lock().insert(node.clone(), session) {
            older.end.cancel();
        }
        self.changed.send_modify(|n| *n += 1);
        tracing::info!(%node, "tunnel is up");
        let ended = tokio::select! {
            ended = connection => ended,
            () = end.cancelled() => Ok(()),
            () = self.shutdown.cancelled() => Ok(()),
        };
        {
            let mut sessions = self.sessions.lock();
            if sessions.get(&node).is_some_and(|s| s.number == number) {
                sessions.remove(&node);
            }
        }
        tracing::info!(%node, reason = ended.err().map(|e| e.to_string()), "tunnel has ended");
    }

    /// The session of a node, waiting a little for an agent that dials again.
    async fn session(&self, node: &str) -> Option<Session> {
        let mut changed = self.changed.subscribe();
        let found = async {
            loop {
                let session = self.sessions.lock().get(node).cloned();
                if let Some(session) = session.filter(|s| !s.sender.is_closed()) {
                    return session;
                }
                if changed.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(REDIAL, found).await.ok()
    }

    /// Opens a stream from the node to `host:port`.
    ///
    /// # Errors
    /// The tunnel is down, or the agent cannot reach the target.
    pub async fn dial(&self, node: &str, host: &str, port: u16) -> Result<Stream, Error> {
        let target = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let failed =
            |detail: String| Error::Target { node: node.to_string(), target: target.clone(), detail };
        let mut session = self.session(node).await.ok_or_else(|| Error::Down(node.to_string()))?;
        let request = http::Request::builder()
            .method(Method::CONNECT)
            .uri(&target)
            .body(Empty::new())
            .map_err(|e| failed(e.to_string()))?;
        let answer = async {
            session.sender.ready().await?;
            session.sender.send_request(request).await
        };
        let answer = match tokio::time::timeout(DIAL, answer).await {
            Err(_) => return Err(failed("the agent did not answer in time".to_string())),
            Ok(Err(_)) if session.sender.is_closed() => return Err(Error::Down(node.to_string())),
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Ok(Ok(answer)) => answer,
        };
        if !answer.status().is_success() {
            let body = http_body_util::Limited::new(answer.into_body(), 4096).collect().await;
            let text = body.map(|b| b.to_bytes()).unwrap_or_default();
            return Err(failed(String::from_utf8_lossy(&text).trim().to_string()));
        }
        let upgraded = hyper::upgrade::on(answer).await.map_err(|e| failed(e.to_string()))?;
        Ok(TokioIo::new(upgraded))
    }
}
