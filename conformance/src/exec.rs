//! Commands in containers and raw WebSockets, over the upgrade of an ordinary request.

use anyhow::Context as _;
use base64::Engine as _;
use futures::StreamExt as _;
use http::Method;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::Result;
use crate::context::Context;
use crate::kinds::PODS;
use crate::rest::{Rest, StatusError};

/// An open WebSocket and the subprotocol that the server chose.
pub struct Socket {
    /// The frames.
    pub stream: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>,
    /// The chosen subprotocol, empty when none.
    pub protocol: String,
}

impl Rest {
    /// Upgrades a GET to a WebSocket that offers one subprotocol.
    pub async fn websocket(&self, uri: &str, protocol: &str) -> Result<Socket> {
        let key = base64::engine::general_purpose::STANDARD.encode(rand::random::<[u8; 16]>());
        let headers = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", &key),
            ("sec-websocket-protocol", protocol),
        ];
        let mut response = self.open(Method::GET, uri, &headers, Vec::new()).await?;
        if response.status() != 101 {
            let code = response.status().as_u16();
            let body = http_body_util::BodyExt::collect(response.into_body()).await?.to_bytes();
            return Err(StatusError {
                code,
                status: serde_json::from_slice(&body).unwrap_or(Value::Null),
                body: String::from_utf8_lossy(&body).into_owned(),
                request: format!("WebSocket {uri}"),
            }
            .into());
        }
        let chosen = response.headers().get("sec-websocket-protocol").and_then(|v| v.to_str().ok());
        let protocol = chosen.unwrap_or("").to_string();
        let upgraded = hyper::upgrade::on(&mut response).await.context("upgrade to a WebSocket")?;
        let stream = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await;
        Ok(Socket { stream, protocol })
    }
}

/// What a command wrote and how it ended.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Exit code.
    pub code: i64,
}

impl Context {
    /// Runs a command in a container of a pod of the test's namespace.
    pub async fn exec(&self, pod: &str, container: &str, command: &[&str]) -> Result<Output> {
        let mut query = vec![("stdout", "true"), ("stderr", "true"), ("container", container)];
        query.retain(|(k, v)| *k != "container" || !v.is_empty());
        query.extend(command.iter().map(|c| ("command", *c)));
        let uri = Rest::uri(&self.api(&PODS).path_of(&format!("{pod}/exec")), &query);
        let limit = std::time::Duration::from_secs(120);
        let run = run(self.rest(), &uri);
        let out = tokio::time::timeout(limit, run).await;
        out.map_err(|_| anyhow::anyhow!("not within {limit:?}"))
            .and_then(|r| r)
            .with_context(|| format!("exec {command:?} in {pod}/{container}"))
    }

    /// Runs a command that must end with 0; its standard output, trimmed.
    pub async fn exec_ok(&self, pod: &str, container: &str, command: &[&str]) -> Result<String> {
        let out = self.exec(pod, container, command).await?;
        anyhow::ensure!(
            out.code == 0,
            "exec {command:?} in {pod}/{container}: exit code {}: {out:?}",
            out.code
        );
        Ok(out.stdout.trim().to_string())
    }

    /// Runs a shell line that must end with 0; its standard output, trimmed.
    pub async fn shell(&self, pod: &str, container: &str, line: &str) -> Result<String> {
        self.exec_ok(pod, container, &["/bin/sh", "-c", line]).await
    }
}

async fn run(rest: &Rest, uri: &str) -> Result<Output> {
    let mut socket = rest.websocket(uri, "v5.channel.k8s.io").await?;
    let (mut stdout, mut stderr, mut status) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(message) = socket.stream.next().await {
        match message {
            Ok(Message::Binary(data)) => match data.split_first() {
                Some((1, rest)) => stdout.extend_from_slice(rest),
                Some((2, rest)) => stderr.extend_from_slice(rest),
                Some((3, rest)) => status.extend_from_slice(rest),
                _ => {}
            },
            Ok(Message::Close(_)) => break,
            Ok(_) => {}
            Err(e) if status.is_empty() => return Err(e.into()),
            Err(_) => break,
        }
    }
    let status: Value = serde_json::from_slice(&status).context("no status frame at the end")?;
    let code = exit_code(&status)?;
    let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
    Ok(Output { stdout: text(stdout), stderr: text(stderr), code })
}

fn exit_code(status: &Value) -> Result<i64> {
    if status["status"] == "Success" {
        return Ok(0);
    }
    let causes = crate::api::array(status, "/details/causes");
    let code = causes.iter().find(|c| c["reason"] == "ExitCode").and_then(|c| c["message"].as_str());
    code.and_then(|c| c.parse().ok()).with_context(|| format!("the command did not run: {status}"))
}
