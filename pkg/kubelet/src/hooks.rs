//! Actions inside or against a container: lifecycle hooks, and what probes have in common with them.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, LifecycleHandler},
    apimachinery::pkg::util::intstr::IntOrString,
};
use knarr_cri::Runtime;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

/// What an answer may hold; more is not read.
const BODY_LIMIT_BYTES: usize = 10 * 1024;

/// The limit of an HTTP hook that has none of its own.
const HTTP_HOOK_LIMIT: Duration = Duration::from_secs(3600);

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// The number of a port that is given by number or by name.
pub fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(text) => text.parse().ok().or_else(|| {
            container
                .ports
                .iter()
                .flatten()
                .find(|p| p.name.as_deref() == Some(text))
                .map(|p| p.container_port)
        }),
    };
    number
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n > 0)
        .ok_or_else(|| format!("invalid port: {port:?}"))
}

async fn connect(host: &str, port: u16, limit: Duration) -> Result<TcpStream, String> {
    let target: Option<IpAddr> = host.parse().ok();
    let attempt = async {
        match target {
            Some(ip) => TcpStream::connect(SocketAddr::new(ip, port)).await,
            None => TcpStream::connect((host, port)).await,
        }
    };
    match timeout(limit, attempt).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(e)) => Err(format!("dial tcp {host}:{port}: {e}")),
        Err(_) => Err(format!("dial tcp {host}:{port}: i/o timeout")),
    }
}

/// Whether a connection can be opened.
pub async fn tcp(host: &str, port: u16, limit: Duration) -> Result<(), String> {
    connect(host, port, limit).await.map(drop)
}

/// A GET; gives the answer's status and the beginning of its body. Redirects are not followed.
pub async fn http(
    action: &HTTPGetAction,
    container: &Container,
    pod_ip: &str,
    agent: &str,
    limit: Duration,
) -> Result<(u16, String), String> {
    let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(pod_ip).to_owned();
    let port = port(&action.port, container)?;
    let secure = action.scheme.as_deref() == Some("HTTPS");
    let path = action.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut request = hyper::Request::get(&path).header("Connection", "close");
    let headers: Vec<_> = action.http_headers.iter().flatten().collect();
    let has = |name: &str| headers.iter().any(|h| h.name.eq_ignore_ascii_case(name));
    for (name, value) in [("Host", authority.as_str()), ("User-Agent", agent), ("Accept", "*/*")] {
        if !has(name) {
            request = request.header(name, value);
        }
    }
    for header in headers.iter().filter(|h| !h.value.is_empty()) {
        request = request.header(&header.name, &header.value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    let exchange = async {
        let stream = connect(&host, port, limit).await?;
        let stream: Box<dyn Stream> =
            if secure { Box::new(tls(stream, &host).await?) } else { Box::new(stream) };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        let driver = tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(|e| e.to_string());
        let result = match answer {
            Ok(answer) => {
                let code = answer.status().as_u16();
                let body = Limited::new(answer.into_body(), BODY_LIMIT_BYTES).collect().await;
                Ok((
                    code,
                    body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default(),
                ))
            }
            Err(error) => Err(error),
        };
        driver.abort();
        result
    };
    let url = format!("{}://{authority}{path}", if secure { "https" } else { "http" });
    match timeout(limit, exchange).await {
        Ok(result) => result.map_err(|e| format!("Get {url:?}: {e}")),
        Err(_) => Err(format!(
            "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

/// Asks gRPC's health service; `Ok` when it serves.
pub async fn grpc(host: &str, port: u16, service: &str, limit: Duration) -> Result<(), String> {
    let exchange = async {
        let stream = connect(host, port, limit)
            .await
            .map_err(|e| format!("timeout: failed to connect service \"{host}:{port}\": {e}"))?;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(|e| e.to_string())?;
        let driver = tokio::spawn(connection);
        let result = ask_health(&mut sender, host, port, service).await;
        driver.abort();
        result
    };
    timeout(limit, exchange)
        .await
        .unwrap_or_else(|_| Err("timeout: health rpc did not complete within the limit".to_owned()))
}

async fn ask_health(
    sender: &mut hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    host: &str,
    port: u16,
    service: &str,
) -> Result<(), String> {
    let length =
        u8::try_from(service.len()).ok().filter(|l| *l < 126).ok_or("the service name is too long")?;
    // A message of one string field, in gRPC's five-byte frame.
    let message: Vec<u8> =
        if service.is_empty() { Vec::new() } else { [&[0x0a, length], service.as_bytes()].concat() };
    let mut frame = vec![0, 0, 0, 0, u8::try_from(message.len()).map_err(|e| e.to_string())?];
    frame.extend(message);
    let request = hyper::Request::post(format!("http://{host}:{port}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(frame)))
        .map_err(|e| e.to_string())?;
    let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let early = answer.headers().get("grpc-status").cloned();
    let body =
        Limited::new(answer.into_body(), BODY_LIMIT_BYTES).collect().await.map_err(|e| e.to_string())?;
    let status = early.or_else(|| body.trailers().and_then(|t| t.get("grpc-status").cloned()));
    if let Some(status) = status.filter(|s| s != "0") {
        return Err(format!("service unhealthy (rpc status {})", status.to_str().unwrap_or("?")));
    }
    // Field 1 of the answer is the status; 1 means serving.
    match body.to_bytes().get(5..) {
        Some([0x08, 1, ..]) => Ok(()),
        _ => Err("service unhealthy (responded with \"NOT_SERVING\")".to_owned()),
    }
}

/// Probes and hooks do not judge certificates, as upstream's do not.
#[derive(Debug)]
struct Trusting(rustls::crypto::WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

async fn tls(stream: TcpStream, host: &str) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Trusting(provider.signature_verification_algorithms));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|e| e.to_string())
}

/// Runs a lifecycle hook to its end.
pub async fn run(
    handler: &LifecycleHandler,
    runtime: &dyn Runtime,
    container: &Container,
    id: &str,
    pod_ip: &str,
    limit: Duration,
) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let shown = command.join(" ");
        let answer = runtime.exec_sync(id, command, limit).await.map_err(|e| {
            format!("Exec lifecycle hook ([{shown}]) for Container {:?} failed - error: {e}", container.name)
        })?;
        if answer.exit_code == 0 {
            return Ok(());
        }
        let output = String::from_utf8_lossy(&[answer.stdout, answer.stderr].concat()).into_owned();
        return Err(format!(
            "Exec lifecycle hook ([{shown}]) for Container {:?} failed - error: command '{shown}' exited with {}: {output}",
            container.name, answer.exit_code
        ));
    }
    if let Some(get) = &handler.http_get {
        let limit = if limit.is_zero() { HTTP_HOOK_LIMIT } else { limit };
        return match http(get, container, pod_ip, "kube-lifecycle/1.37", limit).await? {
            (code, _) if (200..400).contains(&code) => Ok(()),
            (code, body) => Err(format!(
                "HTTP lifecycle hook for Container {:?} failed with statuscode {code}: {body}",
                container.name
            )),
        };
    }
    if let Some(sleep) = &handler.sleep {
        let wanted = Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or_default());
        tokio::time::sleep(if limit.is_zero() { wanted } else { wanted.min(limit) }).await;
        return Ok(());
    }
    Err(format!("the lifecycle hook of Container {:?} has no action that this node supports", container.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Router, http::StatusCode, response::Redirect, routing::get};

    const LIMIT: Duration = Duration::from_secs(2);

    async fn server() -> u16 {
        let health = |frame: [u8; 7]| {
            move || async move { ([("content-type", "application/grpc"), ("grpc-status", "0")], frame.to_vec()) }
        };
        let router = Router::new()
            .route("/good", get(|| async { "fine" }))
            .route("/bad", get(|| async { (StatusCode::SERVICE_UNAVAILABLE, "no") }))
            .route("/away", get(|| async { Redirect::temporary("/bad") }))
            .route("/slow", get(|| async { tokio::time::sleep(LIMIT * 5).await }))
            .route("/grpc.health.v1.Health/Check", axum::routing::post(health([0, 0, 0, 0, 2, 8, 1])));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, router).await });
        port
    }

    #[tokio::test]
    async fn http_tcp_and_grpc() {
        let port = server().await;
        let container: Container = serde_json::from_value(
            serde_json::json!({"name": "c", "ports": [{"name": "web", "containerPort": port}]}),
        )
        .unwrap();
        let ask = async |path: &str, limit| {
            let action = HTTPGetAction {
                path: Some(path.into()),
                port: IntOrString::String("web".into()),
                ..Default::default()
            };
            http(&action, &container, "127.0.0.1", "kube-probe/1.37", limit).await
        };
        assert_eq!(ask("/good", LIMIT).await, Ok((200, "fine".into())));
        assert_eq!(ask("bad", LIMIT).await, Ok((503, "no".into())));
        assert_eq!(ask("/away", LIMIT).await.map(|(code, _)| code), Ok(307));
        let late = ask("/slow", Duration::from_millis(100)).await.unwrap_err();
        assert!(late.contains("Client.Timeout exceeded"), "{late}");
        assert_eq!(tcp("127.0.0.1", port, LIMIT).await, Ok(()));
        assert_eq!(grpc("127.0.0.1", port, "", LIMIT).await, Ok(()));
        assert_eq!(grpc("127.0.0.1", port, "named", LIMIT).await, Ok(()));
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        assert!(tcp("127.0.0.1", closed, LIMIT).await.unwrap_err().starts_with("dial tcp 127.0.0.1:"));
        assert!(super::port(&IntOrString::String("none".into()), &container).is_err());
    }
}
