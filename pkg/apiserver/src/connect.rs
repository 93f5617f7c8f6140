//! Streams to kubelets, pods and services: log, exec, attach, port-forward and the three proxies.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::header::{CONNECTION, HOST, LOCATION, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use knarr_kinds::Kind;
use knarr_machinery::{ApiError, GroupVersionResource};
use knarr_registry::{ListOptions, Selection, obj};
use rand::Rng as _;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::connect_admission::{admit, admit_options};
use crate::insecure::insecure_tls;
use crate::proxy_links::{Place, rewrite};
use crate::respond;
use crate::server::{Call, Inner};
use crate::tokens::core_object;
use crate::tunnel;

const CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
const DEFAULT_KUBELET_PORT: u16 = 10250;
/// Error texts of kubelets are read up to this size.
const MAX_ERROR: usize = 50_000;

/// Where a stream goes.
pub(crate) struct Target {
    /// Node on which it is; its tunnel is used if it has one.
    node: String,
    host: String,
    port: u16,
    tls: Option<Arc<rustls::ClientConfig>>,
    /// Name in the certificate, where that is not the host's.
    name: Option<String>,
}

impl Target {
    /// The same place over TLS.
    pub(crate) fn with_tls(self, tls: Arc<rustls::ClientConfig>, name: String) -> Self {
        Self { tls: Some(tls), name: Some(name), ..self }
    }

    /// `host:port`.
    pub(crate) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// A place that is on no node of ours.
    pub(crate) fn straight(host: &str, port: u16) -> Self {
        Self { node: String::new(), host: host.to_string(), port, tls: None, name: None }
    }
}

/// A connection.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// `pods/log`, `exec`, `attach`, `portforward`.
///
/// # Errors
/// 400 for pods without a node or an unclear container, 404 for missing pods, what the kubelet says.
pub(crate) async fn pod_stream(server: &Arc<Inner>, pods: &Kind, call: Call) -> Result<Response, ApiError> {
    let (namespace, name) = (&call.info.namespace, &call.info.name);
    let pod = server.registry.get_value(pods, namespace, name).await?;
    let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or("");
    if node.is_empty() {
        return Err(ApiError::bad_request(format!("pod {name} does not have a host assigned")));
    }
    admit(server, pods, &call).await?;
    let query = call.parts.uri.query().unwrap_or("");
    let path = match call.info.subresource.as_str() {
        "portforward" => format!("/portForward/{namespace}/{name}"),
        "log" => format!("/containerLogs/{namespace}/{name}/{}?{query}", container(&pod, &call)?),
        verb => {
            let container = container(&pod, &call)?;
            format!("/{verb}/{namespace}/{name}/{container}?{}", stream_query(&call))
        }
    };
    let target = kubelet(server, node).await?;
    let log = call.info.subresource == "log";
    if log && knarr_streaming::websocket::is_requested(&call.parts.headers) {
        return log_socket(server, &target, call, &path).await;
    }
    let response = forward(server, &target, call, &path).await?;
    if log || !response.status().is_success() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return check(response).await;
    }
    Ok(response)
}

/// A log as the messages of a WebSocket.
async fn log_socket(
    server: &Arc<Inner>,
    target: &Target,
    mut call: Call,
    path: &str,
) -> Result<Response, ApiError> {
    use knarr_streaming::websocket::{Codec, PLAIN, negotiate, send};
    let (response, protocol) = match negotiate(&call.parts.headers, PLAIN) {
        Ok(agreed) => agreed,
        Err(refusal) => return Ok(refusal.into_response()),
    };
    let codec = if protocol.contains("base64") { Codec::Base64 } else { Codec::Raw };
    let client = call.parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let client = client.ok_or_else(|| ApiError::bad_request("the connection cannot be upgraded"))?;
    call.parts.headers.remove(UPGRADE);
    let log = check(forward(server, target, call, path).await?).await?;
    tokio::spawn(async move {
        let sent = match client.await {
            Ok(upgraded) => {
                send(TokioIo::new(upgraded), codec, log.into_body()).await.map_err(|e| e.to_string())
            }
            Err(e) => Err(e.to_string()),
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "a log over WebSocket ended");
        }
    });
    Ok(response)
}

/// The kubelet's names of the exec and attach options.
fn stream_query(call: &Call) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (theirs, ours) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if call.query.flag(theirs) {
            query.append_pair(ours, "1");
        }
    }
    for command in call.query.all("command") {
        query.append_pair("command", command);
    }
    query.finish()
}

fn container(pod: &Value, call: &Call) -> Result<String, ApiError> {
    let names = |field: &str| -> Vec<String> {
        let list = pod.pointer(&format!("/spec/{field}")).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|c| c.get("name").and_then(Value::as_str).map(str::to_string)).collect()
    };
    let (main, init, ephemeral) =
        (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let pod_name = obj::name(pod);
    match call.query.text("container") {
        "" if main.len() == 1 => Ok(main[0].clone()),
        "" if main.is_empty() => {
            Err(ApiError::bad_request(format!("a container name must be specified for pod {pod_name}")))
        }
        "" => {
            let mut text = format!(
                "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                main.join(" ")
            );
            if !init.is_empty() {
                text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(ApiError::bad_request(text))
        }
        asked if main.iter().chain(&init).chain(&ephemeral).any(|c| c == asked) => Ok(asked.to_string()),
        asked => Err(ApiError::bad_request(format!("container {asked} is not valid for pod {pod_name}"))),
    }
}

async fn kubelet(server: &Inner, node: &str) -> Result<Target, ApiError> {
    let object = core_object(server, "nodes", "", node).await?;
    let addresses =
        object.pointer("/status/addresses").and_then(Value::as_array).cloned().unwrap_or_default();
    let host = ["InternalIP", "ExternalIP", "InternalDNS", "Hostname"]
        .iter()
        .find_map(|kind| addresses.iter().find(|a| a["type"] == *kind)?.get("address")?.as_str())
        .ok_or_else(|| {
            ApiError::internal(format!(
                "no preferred addresses found; known addresses: {}",
                Value::from(addresses.clone())
            ))
        })?
        .to_string();
    let port = object
        .pointer("/status/daemonEndpoints/kubeletEndpoint/Port")
        .and_then(Value::as_u64)
        .and_then(|p| u16::try_from(p).ok())
        .filter(|p| *p != 0)
        .unwrap_or(DEFAULT_KUBELET_PORT);
    let tls = server.config.kubelet_tls.clone();
    let tls =
        Some(tls.ok_or_else(|| ApiError::unavailable("the server has no client certificate for kubelets"))?);
    Ok(Target { node: node.to_string(), host, port, tls, name: None })
}

/// `nodes/proxy`, `pods/proxy`, `services/proxy`.
///
/// # Errors
/// 400 for malformed names, 503 for services without endpoints, what the connection raises.
pub(crate) async fn proxy(server: &Arc<Inner>, kind: &Kind, call: Call) -> Result<Response, ApiError> {
    if call.info.rest.is_empty()
        && matches!(call.parts.method, Method::GET | Method::HEAD)
        && !call.parts.headers.contains_key(UPGRADE)
    {
        return Ok(redirect(&call.parts.uri));
    }
    let (scheme, name, port) = split_name(&call.info.name)?;
    let options = match &*kind.info.plural {
        "nodes" => "NodeProxyOptions",
        "pods" => "PodProxyOptions",
        _ => "ServiceProxyOptions",
    };
    let document = serde_json::json!({"kind": options, "apiVersion": "v1", "path": call.info.rest});
    admit_options(server, kind, &call, options, document).await?;
    let target = match &*kind.info.plural {
        "nodes" => {
            let mut target = kubelet(server, &name).await?;
            if let Ok(port) = port.parse() {
                target.port = port;
                target.tls = (scheme == "https").then(insecure_tls).transpose()?;
            }
            target
        }
        "pods" => pod_target(server, kind, &call.info.namespace, &name, &port, scheme == "https").await?,
        _ => service_target(server, kind, &call.info.namespace, &name, &port, scheme == "https").await?,
    };
    let query = call.parts.uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    let path = format!("{}{query}", if call.info.rest.is_empty() { "/" } else { &call.info.rest });
    let own = call.parts.uri.path();
    let prefix = own.strip_suffix(call.info.rest.as_str()).unwrap_or(own).trim_end_matches('/').to_string();
    let place = Place { prefix, host: format!("{}:{}", target.host, target.port) };
    rewrite(forward(server, &target, call, &path).await?, &place).await
}

/// `[scheme:]name[:port]`.
fn split_name(text: &str) -> Result<(String, String, String), ApiError> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [name] => Ok((String::new(), (*name).into(), String::new())),
        [name, port] => Ok((String::new(), (*name).into(), (*port).into())),
        [scheme @ ("http" | "https" | ""), name, port] => {
            Ok(((*scheme).into(), (*name).into(), (*port).into()))
        }
        _ => Err(ApiError::bad_request(format!("invalid pod request \"{text}\""))),
    }
}

fn redirect(uri: &Uri) -> Response {
    let query = uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    let mut response = respond::bytes(301, "text/html; charset=utf-8", bytes::Bytes::new());
    if let Ok(location) = HeaderValue::from_str(&format!("{}/{query}", uri.path())) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

async fn pod_target(
    server: &Inner,
    pods: &Kind,
    namespace: &str,
    name: &str,
    port: &str,
    tls: bool,
) -> Result<Target, ApiError> {
    let pod = server.registry.get_value(pods, namespace, name).await?;
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array).cloned().unwrap_or_default();
    let ports = || containers.iter().flat_map(|c| c["ports"].as_array().into_iter().flatten());
    let number = |p: &Value| p["containerPort"].as_u64().and_then(|p| u16::try_from(p).ok());
    let chosen = match port {
        "" => ports().find_map(number).unwrap_or(80),
        text => match text.parse() {
            Ok(port) => port,
            Err(_) => ports()
                .find(|p| p["name"] == text)
                .and_then(number)
                .ok_or_else(|| ApiError::bad_request(format!("pod {name} has no port named \"{text}\"")))?,
        },
    };
    let host = pod.pointer("/status/podIP").and_then(Value::as_str).unwrap_or("").to_string();
    if host.is_empty() {
        return Err(ApiError::bad_request("address not allowed"));
    }
    let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or("").to_string();
    Ok(Target { node, host, port: chosen, tls: tls.then(insecure_tls).transpose()?, name: None })
}

/// A ready endpoint of a service.
pub(crate) async fn service_target(
    server: &Inner,
    services: &Kind,
    namespace: &str,
    name: &str,
    port: &str,
    tls: bool,
) -> Result<Target, ApiError> {
    let service = server.registry.get_value(services, namespace, name).await?;
    let ports = service.pointer("/spec/ports").and_then(Value::as_array).cloned().unwrap_or_default();
    let wanted = match port {
        "" if ports.len() == 1 => ports.first(),
        text => ports.iter().find(|p| {
            p["name"] == text || p["port"].as_u64().map(|n| n.to_string()).as_deref() == Some(text)
        }),
    };
    let none = || ApiError::unavailable(format!("no endpoints available for service \"{name}\""));
    let wanted = wanted.and_then(|p| p.get("name")).and_then(Value::as_str).unwrap_or("").to_string();
    let gvr = GroupVersionResource::new("discovery.k8s.io", "v1", "endpointslices");
    let slices = server.registry.kinds().load().find(&gvr).cloned().ok_or_else(none)?;
    let selection = Selection::parse(&slices, &format!("kubernetes.io/service-name={name}"), "")?;
    let page = server
        .registry
        .list(&slices, namespace, &ListOptions { selection, ..ListOptions::default() })
        .await?;
    let mut found = Vec::new();
    for entry in &page.entries {
        let slice = entry.value()?;
        let ports = slice["ports"].as_array().cloned().unwrap_or_default();
        let number = ports
            .iter()
            .find(|p| p["name"].as_str().unwrap_or("") == wanted)
            .and_then(|p| p["port"].as_u64());
        let Some(number) = number.and_then(|n| u16::try_from(n).ok()) else { continue };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            if endpoint.pointer("/conditions/ready") != Some(&Value::Bool(false)) {
                let node = endpoint["nodeName"].as_str().unwrap_or("");
                let address = endpoint.pointer("/addresses/0").and_then(Value::as_str);
                found.extend(address.map(|a| (node.to_string(), a.to_string(), number)));
            }
        }
    }
    if found.is_empty() {
        return Err(none());
    }
    let (node, host, port) = found.swap_remove(rand::rng().random_range(0..found.len()));
    Ok(Target { node, host, port, tls: tls.then(insecure_tls).transpose()?, name: None })
}

/// A connection to the target: through the tunnel of its node if that is an agent's, else straight.
pub(crate) async fn connect(server: &Inner, target: &Target) -> Result<Box<dyn Duplex>, ApiError> {
    let (host, port) = (target.host.as_str(), target.port);
    if let Some(tunnels) = server.tunnels.load_full()
        && !target.node.is_empty()
        && (tunnels.is_up(&target.node) || is_agent(server, &target.node).await?)
    {
        return match tunnels.dial(&target.node, host, port).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error @ tunnel::Error::Down(_)) => Err(ApiError::unavailable(error.to_string())),
            Err(error) => Err(ApiError::new(500, "", format!("error dialing backend: {error}"))),
        };
    }
    let failed = |e: &dyn std::fmt::Display| {
        ApiError::new(500, "", format!("error dialing backend: dial tcp {host}:{port}: {e}"))
    };
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port)))
        .await
        .map_err(|_| failed(&"i/o timeout"))?
        .map_err(|e| failed(&e))?;
    stream.set_nodelay(true).map_err(|e| failed(&e))?;
    Ok(Box::new(stream))
}

/// Agents have a node password of their own; foreign kubelets have none.
async fn is_agent(server: &Inner, node: &str) -> Result<bool, ApiError> {
    let name = knarr_auth::node_password::secret_name(node);
    match core_object(server, "secrets", "kube-system", &name).await {
        Ok(secret) => Ok(knarr_auth::node_password::is_agent(&secret)),
        Err(e) if e.is_not_found() => Ok(false),
        Err(e) => Err(e),
    }
}

async fn open(server: &Inner, target: &Target) -> Result<Box<dyn Duplex>, ApiError> {
    let (host, port) = (target.host.as_str(), target.port);
    let failed = |e: &dyn std::fmt::Display| {
        ApiError::new(500, "", format!("error dialing backend: dial tcp {host}:{port}: {e}"))
    };
    let stream = connect(server, target).await?;
    let Some(tls) = &target.tls else { return Ok(stream) };
    // Upgrades exist in HTTP/1.1 only.
    let mut tls = (**tls).clone();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = target.name.clone().unwrap_or_else(|| host.to_string());
    let name = ServerName::try_from(name).map_err(|e| failed(&e))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, connector.connect(name, stream))
        .await
        .map_err(|_| failed(&"TLS handshake timeout"))?
        .map_err(|e| failed(&e))?;
    Ok(Box::new(stream))
}

/// Sends the request on and the answer back; an upgrade joins the two connections.
pub(crate) async fn forward(
    server: &Inner,
    target: &Target,
    call: Call,
    path: &str,
) -> Result<Response, ApiError> {
    let stream = open(server, target).await?;
    let failed = |e: &dyn std::fmt::Display| ApiError::new(500, "", format!("error dialing backend: {e}"));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to a backend ended");
        }
    });
    let (mut parts, body) = (call.parts, call.body.into_inner());
    let upgrade = parts.headers.contains_key(UPGRADE);
    let client = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() =
        Uri::from(PathAndQuery::try_from(path).map_err(|e| ApiError::bad_request(e.to_string()))?);
    *request.headers_mut() = std::mem::take(&mut parts.headers);
    let headers = request.headers_mut();
    for name in [
        "authorization",
        "impersonate-user",
        "impersonate-group",
        "impersonate-uid",
        "keep-alive",
        "proxy-connection",
        "te",
        "transfer-encoding",
    ] {
        headers.remove(name);
    }
    if !upgrade {
        headers.remove(CONNECTION);
    }
    if let Ok(host) = HeaderValue::from_str(&format!("{}:{}", target.host, target.port)) {
        headers.insert(HOST, host);
    }
    let mut response = sender.send_request(request).await.map_err(|e| failed(&e))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (mut parts, body) = response.into_parts();
        for name in ["connection", "transfer-encoding", "keep-alive"] {
            parts.headers.remove(name);
        }
        return Ok(Response::from_parts(parts, Body::new(body)));
    }
    let Some(client) = client else {
        return Err(ApiError::bad_request("this connection cannot be upgraded: use HTTP/1.1"));
    };
    let backend = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        match tokio::try_join!(client, backend) {
            Ok((client, backend)) => {
                let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
                if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut backend).await {
                    tracing::debug!(%error, "stream ended");
                }
            }
            Err(error) => tracing::debug!(%error, "upgrade failed"),
        }
    });
    let (parts, _) = response.into_parts();
    Ok(Response::from_parts(parts, Body::empty()))
}

/// The kubelet's refusal as a Status.
async fn check(response: Response) -> Result<Response, ApiError> {
    if response.status().is_success() {
        return Ok(response);
    }
    let code = response.status().as_u16();
    let body = http_body_util::Limited::new(response.into_body(), MAX_ERROR).collect().await;
    let text =
        body.map(|b| String::from_utf8_lossy(&b.to_bytes()).trim_end().to_string()).unwrap_or_default();
    Err(match code {
        400 => ApiError::bad_request(text),
        404 => ApiError::new(404, "NotFound", text),
        500 => ApiError::internal(text),
        _ => ApiError::new(code, "", text),
    })
}
