//! The agent's end of the tunnel: it dials every server, upgrades the connection, and serves `CONNECT host:port` on
//! it over HTTP/2. Entry point: [`keep`]. The agent needs no open port for this.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Error;

/// Name of the protocol in the `Upgrade` header.
const PROTOCOL: &str = "knarr-tunnel/1";
const HEARTBEAT: Duration = Duration::from_secs(15);
const ANSWER: Duration = Duration::from_secs(10);
const DIAL: Duration = Duration::from_secs(5);
/// Pauses before dialing again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
const WINDOW: u32 = 1 << 20;
const MAX_STREAMS: u32 = 1000;

/// Whether the server may reach this address from here.
pub type Allow = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// How tunnels are opened.
#[derive(Clone)]
pub struct Tunnel {
    /// TLS with the node's certificate.
    pub tls: rustls::ClientConfig,
    /// What may be reached.
    pub allow: Allow,
}

/// Keeps a tunnel to every server in the list until `shutdown`.
pub async fn keep(tunnel: Tunnel, mut servers: watch::Receiver<Vec<String>>, shutdown: CancellationToken) {
    let mut open: HashMap<String, CancellationToken> = HashMap::new();
    loop {
        let wanted = servers.borrow_and_update().clone();
        open.retain(|server, end| {
            let stays = wanted.contains(server);
            if !stays {
                end.cancel();
            }
            stays
        });
        for server in wanted {
            open.entry(server.clone()).or_insert_with(|| {
                let end = shutdown.child_token();
                tokio::spawn(keep_one(tunnel.clone(), server, end.clone()));
                end
            });
        }
        tokio::select! {
            changed = servers.changed() => if changed.is_err() {
                shutdown.cancelled().await;
                return;
            },
            () = shutdown.cancelled() => return,
        }
    }
}

async fn keep_one(tunnel: Tunnel, server: String, end: CancellationToken) {
    let mut pause = BACKOFF.0;
    loop {
        let outcome = tokio::select! {
            outcome = run(&tunnel, &server) => outcome,
            () = end.cancelled() => return,
        };
        match outcome {
            Ok(()) => {
                tracing::info!(server, "tunnel has ended, dialing again");
                pause = BACKOFF.0;
            }
            Err(error) => {
                if pause == BACKOFF.0 {
                    tracing::warn!(server, %error, "no tunnel to the server, trying again");
                }
                pause = (pause * 2).min(BACKOFF.1);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = end.cancelled() => return,
        }
    }
}

/// Opens one tunnel and serves it until it ends.
async fn run(tunnel: &Tunnel, server: &str) -> Result<(), Error> {
    let fail = |detail: String| Error::Server { server: server.to_string(), detail };
    let upgraded = match tokio::time::timeout(DIAL * 3, open(tunnel, server)).await {
        Ok(upgraded) => upgraded?,
        Err(_) => return Err(fail("no answer in time".to_string())),
    };
    tracing::info!(server, "tunnel to the server is up");
    let allow = tunnel.allow.clone();
    let service = hyper::service::service_fn(move |request| {
        let allow = allow.clone();
        async move { Ok::<_, Infallible>(serve(request, &allow).await) }
    });
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * 4)
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(HEARTBEAT)
        .keep_alive_timeout(ANSWER)
        .serve_connection(upgraded, service)
        .await;
    if let Err(error) = served {
        tracing::debug!(server, %error, "tunnel");
    }
    Ok(())
}

async fn open(tunnel: &Tunnel, server: &str) -> Result<hyper::upgrade::Upgraded, Error> {
    let fail = |detail: String| Error::Server { server: server.to_string(), detail };
    let stream = TcpStream::connect(server).await.map_err(|e| fail(e.to_string()))?;
    stream.set_nodelay(true).map_err(|e| fail(e.to_string()))?;
    // Upgrades exist in HTTP/1.1 only.
    let mut tls = tunnel.tls.clone();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_string()).map_err(|e| fail(e.to_string()))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
    let stream = connector.connect(name, stream).await.map_err(|e| fail(e.to_string()))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| fail(e.to_string()))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection of a tunnel");
        }
    });
    let request = Request::get("/v1-knarr/connect")
        .header(HOST, server)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, PROTOCOL)
        .body(Empty::<Bytes>::new())
        .map_err(|e| fail(e.to_string()))?;
    let response = sender.send_request(request).await.map_err(|e| fail(e.to_string()))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(fail(format!("the tunnel was refused: {}", response.status())));
    }
    hyper::upgrade::on(response).await.map_err(|e| fail(e.to_string()))
}

fn refuse(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}

/// Answers `CONNECT host:port`.
async fn serve(mut request: Request<Incoming>, allow: &Allow) -> Response<Full<Bytes>> {
    if request.method() != Method::CONNECT {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "only CONNECT is served here".to_string());
    }
    let target = request.uri().authority().map(ToString::to_string).unwrap_or_default();
    let Ok(address) = target.parse::<std::net::SocketAddr>() else {
        return refuse(StatusCode::BAD_REQUEST, format!("{target:?} is no address with a port"));
    };
    if !allow(address.ip()) {
        return refuse(
            StatusCode::FORBIDDEN,
            format!("{} is neither this node's nor one of its pods'", address.ip()),
        );
    }
    let mut stream = match tokio::time::timeout(DIAL, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return refuse(StatusCode::BAD_GATEWAY, error.to_string()),
        Err(_) => return refuse(StatusCode::GATEWAY_TIMEOUT, "i/o timeout".to_string()),
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    tokio::spawn(async move {
        match hyper::upgrade::on(&mut request).await {
            Ok(upgraded) => {
                let mut upgraded = TokioIo::new(upgraded);
                if let Err(error) = tokio::io::copy_bidirectional(&mut upgraded, &mut stream).await {
                    tracing::debug!(%target, %error, "stream through the tunnel");
                }
            }
            Err(error) => tracing::debug!(%target, %error, "stream through the tunnel"),
        }
    });
    Response::new(Full::new(Bytes::new()))
}
