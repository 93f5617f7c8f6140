//! The TLS listener: HTTP/1.1 and HTTP/2 with upstream's windows.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::identity::PeerCertificates;
use crate::server::ApiServer;

const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 25 * 1024 * 1024;
const MAX_STREAMS: u32 = 1000;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How long open requests may go on after the shutdown began.
const DRAIN: Duration = Duration::from_secs(10);

impl ApiServer {
    /// Serves a listener until `shutdown`; then open requests are given some seconds.
    ///
    /// # Errors
    /// Never at present; accept errors are logged and tried again.
    pub async fn serve_tls(
        &self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        shutdown: CancellationToken,
    ) -> std::io::Result<()> {
        self.serve_router(listener, tls, self.router(), shutdown).await
    }

    /// As [`ApiServer::serve_tls`], with another router in front, such as the supervisor's.
    ///
    /// # Errors
    /// As there.
    pub async fn serve_router(
        &self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        router: axum::Router,
        shutdown: CancellationToken,
    ) -> std::io::Result<()> {
        let acceptor = TlsAcceptor::from(tls);
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => break,
                () = self.shutdown().cancelled() => break,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let one = connection(router.clone(), stream, acceptor.clone(), shutdown.clone());
                    connections.spawn(async move {
                        if let Err(error) = one.await {
                            tracing::debug!(%peer, %error, "connection ended");
                        }
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: give the others time to end.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        connections.close();
        let _ = tokio::time::timeout(DRAIN, connections.wait()).await;
        Ok(())
    }
}

async fn connection(
    router: axum::Router,
    stream: TcpStream,
    acceptor: TlsAcceptor,
    shutdown: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
    let certificates = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec).unwrap_or_default();
    let certificates = PeerCertificates(Arc::new(certificates.into_iter().map(|c| c.into_owned()).collect()));
    let service = router.layer(axum::Extension(certificates));
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(KEEP_ALIVE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(KEEP_ALIVE);
    let connection =
        builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
