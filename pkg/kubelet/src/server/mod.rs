//! The kubelet's HTTPS endpoint: `/pods`, `/containerLogs`, `/stats/summary` and the like; streams are in [`streams`].

pub mod auth;
mod logs;
mod streams;

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::{Error, config::ServingTls, pods::Pods, stats, worker::Node};

/// What handlers work with.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) node: Arc<Node>,
    pub(crate) pods: Pods,
    access: Arc<dyn auth::Access>,
}

/// The peer's certificates, as the TLS handshake verified them.
#[derive(Clone)]
pub(crate) struct PeerCertificates(pub(crate) Vec<CertificateDer<'static>>);

/// A bound endpoint.
pub(crate) struct Endpoint {
    listener: TcpListener,
    tls: ServingTls,
    router: Router,
}

/// Binds the endpoint, if one is wanted.
pub(crate) async fn bind(node: &Arc<Node>, pods: Pods) -> Result<Option<Endpoint>, Error> {
    let Some(tls) = node.config.serving_tls.clone() else { return Ok(None) };
    let address: SocketAddr = node.config.listen;
    let listener = TcpListener::bind(address).await.map_err(|e| Error::Serve(address, e.to_string()))?;
    let access = node
        .config
        .access
        .clone()
        .unwrap_or_else(|| Arc::new(auth::ApiAccess::new(node.client.clone(), &node.config.node_name)));
    let context = Context { node: node.clone(), pods, access };
    Ok(Some(Endpoint { listener, tls, router: router(context) }))
}

fn router(context: Context) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/pods", get(pods))
        .route("/pods/", get(pods))
        .route("/runningpods/", get(running_pods))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs::container))
        .route("/exec/{namespace}/{pod}/{container}", any(streams::exec))
        .route("/exec/{namespace}/{pod}/{uid}/{container}", any(streams::exec))
        .route("/attach/{namespace}/{pod}/{container}", any(streams::attach))
        .route("/attach/{namespace}/{pod}/{uid}/{container}", any(streams::attach))
        .route("/portForward/{namespace}/{pod}", any(streams::port_forward))
        .route("/portForward/{namespace}/{pod}/{uid}", any(streams::port_forward))
        .route("/stats/summary", get(summary))
        .route("/metrics/resource", get(metrics))
        .layer(middleware::from_fn_with_state(context.clone(), judge))
        .with_state(context)
}

/// Nobody gets past without being known and allowed.
async fn judge(State(context): State<Context>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let caller = match auth::identify(&context, &parts).await {
        Ok(Some(caller)) => caller,
        Ok(None) => return (StatusCode::UNAUTHORIZED, "Unauthorized").into_response(),
        Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, error).into_response(),
    };
    let (verb, subresource) = auth::attributes(&parts.method, parts.uri.path());
    match context.access.allowed(&caller, verb, subresource).await {
        Ok(true) => next.run(Request::from_parts(parts, body)).await,
        Ok(false) => {
            let message = format!(
                "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{subresource}])",
                caller.name
            );
            (StatusCode::FORBIDDEN, message).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error).into_response(),
    }
}

fn json(document: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(document) {
        Ok(bytes) => ([(header::CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn pods(State(context): State<Context>) -> Response {
    json(
        &serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": context.pods.list()}),
    )
}

async fn running_pods(State(context): State<Context>) -> Response {
    let running: Vec<_> = context
        .pods
        .list()
        .into_iter()
        .filter(|p| p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running"))
        .collect();
    json(&serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": running}))
}

async fn summary(State(context): State<Context>) -> Response {
    match stats::summary(&context.node, &context.pods).await {
        Ok(summary) => json(&summary),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn metrics(State(context): State<Context>) -> Response {
    match stats::resource_metrics(&context.node, &context.pods).await {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Serves until shutdown.
pub(crate) async fn serve(endpoint: Option<Endpoint>, shutdown: CancellationToken) {
    let Some(endpoint) = endpoint else { return };
    loop {
        let accepted = tokio::select! {
            accepted = endpoint.listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting on the kubelet endpoint");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let (tls, router) = (tokio_rustls::TlsAcceptor::from((endpoint.tls)()), endpoint.router.clone());
        // Short exec sessions are many small writes; waiting to join them costs tens of milliseconds each.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "TCP_NODELAY");
        }
        let connection = async move {
            let stream =
                match tokio::time::timeout(std::time::Duration::from_secs(10), tls.accept(stream)).await {
                    Ok(Ok(stream)) => stream,
                    Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake"),
                    Err(_) => return tracing::debug!(%peer, "TLS handshake took too long"),
                };
            let certificates = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec).unwrap_or_default();
            let service =
                hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let (mut router, certificates) = (router.clone(), certificates.clone());
                    async move {
                        let mut request = request.map(Body::new);
                        request.extensions_mut().insert(PeerCertificates(certificates));
                        Ok::<_, Infallible>(router.call(request).await.unwrap_or_else(|never| match never {}))
                    }
                });
            let served = auto::Builder::new(TokioExecutor::new())
                .serve_connection_with_upgrades(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%peer, %error, "kubelet endpoint");
            }
        };
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = connection => {}
                () = shutdown.cancelled() => {}
            }
        });
    }
}
