//! Upstream's kubectl.go: the proxy server.

use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::Child;

use super::kubectl::command;
use crate::Result;
use crate::context::{Context, random};

tests! {
    "[sig-cli] Kubectl client Proxy server should support proxy with --port 0" => port_zero,
    "[sig-cli] Kubectl client Proxy server should support --unix-socket=/path" => unix_socket,
}

/// Starts `kubectl proxy` and reads the line that says where it serves.
async fn start(cx: &Context, args: &[&str]) -> Result<(Child, String)> {
    let mut child = command(cx, args).spawn().context("kubectl proxy")?;
    let out = child.stdout.take().context("standard output of kubectl proxy")?;
    let mut line = String::new();
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, BufReader::new(out).read_line(&mut line))
        .await
        .context("kubectl proxy says nothing")??;
    ensure_contains!(line, "Starting to serve on ", "first line of kubectl proxy");
    let place = line.split("Starting to serve on ").nth(1).unwrap_or("").trim().to_string();
    Ok((child, place))
}

/// `GET /api/` over a connection must list the API versions.
async fn versions(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    stream.write_all(b"GET /api/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer))
        .await
        .context("no answer")??;
    let answer = String::from_utf8_lossy(&answer);
    ensure_contains!(answer, "APIVersions", "answer of /api/ through the proxy");
    Ok(())
}

async fn port_zero(cx: Context) -> Result<()> {
    let (mut child, place) = start(&cx, &["proxy", "-p", "0", "--disable-filter"]).await?;
    let outcome = match TcpStream::connect(&place).await {
        Ok(stream) => versions(stream).await,
        Err(e) => Err(anyhow::anyhow!("{place}: {e}")),
    };
    child.kill().await?;
    outcome
}

async fn unix_socket(cx: Context) -> Result<()> {
    let dir = std::env::temp_dir().join(format!("kubectl-proxy-unix-{}", random(8)));
    std::fs::create_dir(&dir)?;
    let path = dir.join("test");
    let option = format!("--unix-socket={}", path.display());
    let outcome = through_socket(&cx, &option, &path).await;
    std::fs::remove_dir_all(&dir)?;
    outcome
}

async fn through_socket(cx: &Context, option: &str, path: &std::path::Path) -> Result<()> {
    let (mut child, place) = start(cx, &["proxy", option]).await?;
    ensure_eq!(place, path.display().to_string(), "where the proxy says it serves");
    let outcome = match UnixStream::connect(path).await {
        Ok(stream) => versions(stream).await,
        Err(e) => Err(anyhow::anyhow!("{}: {e}", path.display())),
    };
    child.kill().await?;
    outcome
}
