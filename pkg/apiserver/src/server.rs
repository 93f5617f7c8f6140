//! [`ApiServer`]: one fallback handler for every request.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use futures::FutureExt as _;
use http::header::{CACHE_CONTROL, HeaderValue};
use http::request::Parts;
use knarr_auth::{Authenticator, Authorizer, Permit, Rbac, Tokens, Union};
use knarr_datastore::Datastore;
use knarr_machinery::{ApiError, UserInfo};
use knarr_registry::{AllowAll, Hooks, Kinds, Registry};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::access;
use crate::config::Config;
use crate::discovery::Documents;
use crate::hooks::WriteHooks;
use crate::info::{Query, RequestInfo};
use crate::metrics::Metrics;
use crate::negotiate;
use crate::services::ServiceAllocator;
use crate::tokens;
use crate::tunnel::Tunnels;
use crate::virtual_kinds::Sources;
use crate::{bootstrap, custom, health, identity, resource, respond};

/// Ordinary requests end after this time, as upstream's `--request-timeout`.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The API server. Cheap to clone.
#[derive(Clone)]
pub struct ApiServer {
    inner: Arc<Inner>,
}

/// What handlers share.
pub(crate) struct Inner {
    pub config: Config,
    pub registry: Arc<Registry>,
    pub documents: Documents,
    pub metrics: Metrics,
    pub shutdown: CancellationToken,
    authorizer: ArcSwapOption<Arc<dyn Authorizer>>,
    admission: ArcSwap<Arc<dyn Hooks>>,
    authenticators: ArcSwap<Vec<Arc<dyn Authenticator>>>,
    pub ready: health::Checks,
    pub sources: Sources,
    pub informers: OnceLock<Arc<knarr_client::Informers>>,
    pub services: ServiceAllocator,
    tokens: ArcSwapOption<Tokens>,
    rbac: ArcSwapOption<Rbac>,
    pub tunnels: ArcSwapOption<Tunnels>,
}

/// One authorized request.
pub(crate) struct Call {
    pub info: RequestInfo,
    pub query: Query,
    pub user: UserInfo,
    pub parts: Parts,
    /// Behind a lock only because a body cannot be shared between threads, which a call must be.
    pub body: Mutex<Body>,
}

impl ApiServer {
    /// Opens the registry over a datastore and creates what every cluster has. The authorizer comes later
    /// ([`ApiServer::set_authorizer`]): until then only `system:masters` are served.
    ///
    /// # Errors
    /// When the datastore cannot be read or written.
    pub async fn build(
        config: Config,
        store: Datastore,
        authenticators: Vec<Arc<dyn Authenticator>>,
        shutdown: CancellationToken,
    ) -> Result<Self, ApiError> {
        let kinds = Kinds::new(knarr_kinds::builtins());
        let registry = Registry::open(kinds, store, shutdown.clone())
            .await
            .map_err(knarr_registry::error::from_store)?;
        let admission: Arc<dyn Hooks> = Arc::new(AllowAll);
        let inner = Inner {
            services: ServiceAllocator::new(&config.service_cidr, config.node_ports)?,
            documents: Documents::new(registry.kinds().clone()),
            config,
            registry,
            metrics: Metrics::default(),
            shutdown,
            authorizer: ArcSwapOption::empty(),
            admission: ArcSwap::from_pointee(admission),
            authenticators: ArcSwap::from_pointee(authenticators),
            ready: health::Checks::default(),
            sources: Sources::default(),
            informers: OnceLock::new(),
            tokens: ArcSwapOption::empty(),
            rbac: ArcSwapOption::empty(),
            tunnels: ArcSwapOption::empty(),
        };
        let server = Self { inner: Arc::new(inner) };
        bootstrap::run(&server.inner).await?;
        custom::start(server.inner.registry.clone(), server.inner.shutdown.clone()).await?;
        Ok(server)
    }

    /// Puts authorization in force.
    pub fn set_authorizer(&self, authorizer: Arc<dyn Authorizer>) {
        self.inner.authorizer.store(Some(Arc::new(authorizer)));
    }

    /// Replaces the authenticators.
    pub fn set_authenticators(&self, authenticators: Vec<Arc<dyn Authenticator>>) {
        self.inner.authenticators.store(Arc::new(authenticators));
    }

    /// The authenticators in force.
    pub fn authenticators(&self) -> Arc<Vec<Arc<dyn Authenticator>>> {
        self.inner.authenticators.load_full()
    }

    /// Reaches the nodes of agents through these tunnels.
    pub fn set_tunnels(&self, tunnels: Arc<Tunnels>) {
        self.inner.tunnels.store(Some(tunnels));
    }

    /// Puts admission in force.
    pub fn set_admission(&self, admission: Arc<dyn Hooks>) {
        self.inner.admission.store(Arc::new(admission));
    }

    /// Sets who signs and judges service-account tokens.
    pub fn set_tokens(&self, tokens: Arc<Tokens>) {
        self.inner.tokens.store(Some(tokens));
    }

    /// Sets the policy against which writes of roles and bindings are checked for escalation.
    pub fn set_rbac(&self, rbac: Arc<Rbac>) {
        self.inner.rbac.store(Some(rbac));
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The registry.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.inner.registry
    }

    /// Readiness checks; components add their own.
    pub fn checks(&self) -> &health::Checks {
        &self.inner.ready
    }

    /// The router. Requests with a [`UserInfo`] extension carry that identity (in-process components);
    /// all others are authenticated.
    pub fn router(&self) -> Router {
        Router::new().fallback(serve).with_state(self.inner.clone())
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    pub(crate) fn shutdown(&self) -> &CancellationToken {
        &self.inner.shutdown
    }
}

async fn serve(State(server): State<Arc<Inner>>, request: Request) -> Response {
    let begun = Instant::now();
    let (parts, body) = request.into_parts();
    let query = Query::parse(&parts.uri);
    let info = RequestInfo::parse(&parts.method, &parts.uri, &query);
    let audit_id = parts
        .headers
        .get("audit-id")
        .cloned()
        .or_else(|| HeaderValue::from_str(&knarr_registry::registry::new_uid()).ok());
    let accepted = negotiate::of_errors(&parts.headers, &query);
    let label = server.metrics.begin(&info);
    // A panic must not take down the other requests of the connection.
    let handled = AssertUnwindSafe(handle(&server, info, query, parts, body)).catch_unwind().await;
    let mut response = match handled {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => respond::error(&error, accepted),
        Err(_) => respond::error(
            &ApiError::internal("the request handler panicked; see the server's log"),
            accepted,
        ),
    };
    server.metrics.end(label, response.status().as_u16(), begun.elapsed());
    let headers = response.headers_mut();
    if let Some(id) = audit_id {
        headers.insert("audit-id", id);
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    response
}

async fn handle(
    server: &Arc<Inner>,
    info: RequestInfo,
    query: Query,
    parts: Parts,
    body: Body,
) -> Result<Response, ApiError> {
    if health::is_public(&info) {
        // Health is told to everybody, also before the authorizer is there.
        return health::serve(server, &info, &query);
    }
    let authenticators = server.authenticators.load_full();
    let user = identity::authenticate(&parts, &authenticators).await?;
    let authorizer = server.authorizer();
    let user = identity::impersonate(user, &parts.headers, &*authorizer).await?;
    let permit = knarr_auth::authorize(&*authorizer, &access::attributes(&user, &info, &query)).await?;
    let limit = time_limit(&info, &query);
    let call = Call { info, query, user, parts, body: Mutex::new(body) };
    match limit {
        None => route(server, call, &permit).await,
        Some(limit) => tokio::time::timeout(limit, route(server, call, &permit)).await.unwrap_or_else(|_| {
            Err(ApiError::timeout("Timeout: request did not complete within the allotted timeout", 0))
        }),
    }
}

/// None for requests that run as long as they like.
fn time_limit(info: &RequestInfo, query: &Query) -> Option<Duration> {
    let streams = matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy");
    if info.verb == "watch" || streams {
        return None;
    }
    let asked = query.get("timeout").and_then(parse_duration).filter(|d| !d.is_zero());
    Some(asked.map_or(REQUEST_TIMEOUT, |d| d.min(REQUEST_TIMEOUT)))
}

/// The usual forms of a Go duration: `30s`, `1m30s`, `500ms`.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |n| digits + n);
        total += number
            * match &rest[digits..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    Duration::try_from_secs_f64(total).ok()
}

async fn route(server: &Arc<Inner>, call: Call, permit: &Permit) -> Result<Response, ApiError> {
    if call.info.is_resource {
        return resource::handle(server, call, permit).await;
    }
    if health::is_health(&call.info) {
        return health::serve(server, &call.info, &call.query);
    }
    if call.info.path == "/metrics" {
        return Ok(respond::text(200, server.metrics.render(&server.registry)));
    }
    if matches!(call.info.path.as_str(), "/openid/v1/jwks" | "/.well-known/openid-configuration") {
        return tokens::oidc(server, &call.info.path);
    }
    crate::discovery::serve(server, &call, permit)
}

impl Inner {
    /// Signer and judge of service-account tokens.
    ///
    /// # Errors
    /// 503 before it is set.
    pub fn tokens(&self) -> Result<Arc<Tokens>, ApiError> {
        self.tokens
            .load_full()
            .ok_or_else(|| ApiError::unavailable("no key for service-account tokens is configured"))
    }

    /// The authorizer in force; before there is one, only `system:masters` pass.
    pub fn authorizer(&self) -> Arc<dyn Authorizer> {
        match self.authorizer.load_full() {
            Some(authorizer) => authorizer.as_ref().clone(),
            None => Arc::new(Union::new(Vec::new())),
        }
    }

    /// What writes pass: admission in force, and allocation.
    pub fn hooks(&self) -> Arc<dyn Hooks> {
        Arc::new(WriteHooks {
            admission: self.admission.load().as_ref().clone(),
            services: self.services.clone(),
            authorizer: self.authorizer(),
            rbac: self.rbac.load_full(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, want) in
            [("30s", Some(30_000)), ("1m30s", Some(90_000)), ("500ms", Some(500)), ("x", None), ("3", None)]
        {
            assert_eq!(parse_duration(text).map(|d| d.as_millis()), want, "{text}");
        }
    }
}
