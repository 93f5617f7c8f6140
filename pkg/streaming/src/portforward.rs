//! Port-forward: pairs of streams (bytes and errors) per connection that the client has taken on.
//!
//! A server [`accept`]s a client's request, sends the response and lets [`Pending::serve`] run. Three ways in: SPDY, SPDY
//! inside a WebSocket (kubectl since 1.30), and a WebSocket channel pair per port (other clients).

use crate::io::copy_both;
use crate::spdy::{RstStatus, Stream};
use crate::websocket::{self, ChannelWriter, Codec, Mux};
use crate::{BoxIo, BoxRead, Io, Refusal, spdy, upgrade};
use axum::body::Body;
use futures::future::BoxFuture;
use http::{Request, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::Instant;

const SPDY: &[&str] = &["portforward.k8s.io"];
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const WEBSOCKET: &[&str] = &[TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io"];

/// A client has this long to open the second stream of a pair.
const STREAM_CREATION: Duration = Duration::from_secs(30);
/// Pairs at a time.
const MAX_PAIRS: usize = 1024;
/// Ports in one request over channels: channel numbers are one byte.
const MAX_PORTS: usize = 100;

/// Connects to a port of the target.
pub type Connect = Arc<dyn Fn(u16) -> BoxFuture<'static, io::Result<BoxIo>> + Send + Sync>;

enum Wire {
    Spdy,
    Tunnel,
    Channels { codec: Codec, ports: Vec<u16> },
}

/// A request that has been answered but whose connection has not gone over yet.
pub struct Pending {
    upgrade: OnUpgrade,
    wire: Wire,
}

/// Chooses a protocol.
pub fn accept<B>(request: &mut Request<B>) -> Result<(Response<Body>, Pending), Refusal> {
    let headers = request.headers();
    let (response, wire) = if websocket::is_requested(headers) {
        let (response, protocol) = websocket::negotiate(headers, WEBSOCKET)?;
        let codec = if protocol.contains("base64") { Codec::Base64 } else { Codec::Raw };
        let wire = match protocol {
            TUNNEL => Wire::Tunnel,
            _ => Wire::Channels { codec, ports: ports(request.uri().query().unwrap_or_default())? },
        };
        (response, wire)
    } else {
        (upgrade::spdy(headers, SPDY)?.0, Wire::Spdy)
    };
    Ok((response, Pending { upgrade: hyper::upgrade::on(request), wire }))
}

fn ports(query: &str) -> Result<Vec<u16>, Refusal> {
    let values =
        query.split('&').filter_map(|pair| pair.split_once('=')).filter(|(name, _)| *name == "ports");
    let values = values.flat_map(|(_, value)| value.split(',').flat_map(|part| part.split("%2C")));
    let mut ports = Vec::new();
    for value in values {
        match value.parse() {
            Ok(port) if port != 0 => ports.push(port),
            _ => {
                return Err(Refusal::bad_request(format!(
                    "query parameter \"ports\": {value:?} is not a port"
                )));
            }
        }
    }
    match ports.len() {
        0 => Err(Refusal::bad_request("query parameter \"ports\" is required")),
        n if n > MAX_PORTS => {
            Err(Refusal::bad_request(format!("{n} ports, at most {MAX_PORTS} are forwarded")))
        }
        _ => Ok(ports),
    }
}

impl Pending {
    /// Forwards until the client goes away. `target` names the pod in messages to the client.
    pub async fn serve(self, target: &str, connect: Connect) -> Result<(), hyper::Error> {
        let io = TokioIo::new(self.upgrade.await?);
        match self.wire {
            Wire::Spdy => serve_spdy(io, target, connect).await,
            Wire::Tunnel => serve_spdy(websocket::tunnel(io).await, target, connect).await,
            Wire::Channels { codec, ports } => serve_channels(io, codec, &ports, target, connect).await,
        }
        Ok(())
    }
}

struct Pair {
    port: u16,
    data: Option<Stream>,
    error: Option<Stream>,
    deadline: Instant,
}

/// Forwards over a SPDY connection until it ends.
pub async fn serve_spdy(io: impl Io + 'static, target: &str, connect: Connect) {
    let (connection, mut incoming) = spdy::server(io);
    let target: Arc<str> = target.into();
    let mut pairs: HashMap<String, Pair> = HashMap::new();
    let mut running = JoinSet::new();
    loop {
        let due = pairs.values().map(|pair| pair.deadline).min();
        let timer = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            stream = incoming.accept() => match stream {
                Some(_) if running.len() + pairs.len() >= MAX_PAIRS => {}
                Some(stream) => {
                    if let Some((data, error, port)) = pair_up(&mut pairs, stream) {
                        running.spawn(forward(data, error, port, target.clone(), connect.clone()));
                    }
                }
                None => return,
            },
            Some(_) = running.join_next() => {}
            () = connection.closed() => return,
            () = timer => {
                let now = Instant::now();
                for (_, pair) in pairs.extract_if(|_, pair| pair.deadline <= now) {
                    running.spawn(give_up(pair));
                }
            }
        }
    }
}

/// Puts a stream with the other of its pair; refuses what makes no sense.
fn pair_up(pairs: &mut HashMap<String, Pair>, stream: Stream) -> Option<(Stream, Stream, u16)> {
    let port = stream.headers().get("port").and_then(|port| port.parse().ok()).filter(|port| *port != 0);
    let kind = stream.headers().get("streamtype").unwrap_or_default().to_string();
    let (Some(port), "data" | "error") = (port, kind.as_str()) else {
        tracing::debug!(?stream, "port-forward stream without a proper type and port");
        stream.reset(RstStatus::REFUSED_STREAM);
        return None;
    };
    let id = match stream.headers().get("requestid") {
        Some(id) => id.to_string(),
        // Old clients give none; they open the error stream first and the data stream right after it.
        None => format!("#{}", if kind == "error" { stream.id() } else { stream.id().wrapping_sub(2) }),
    };
    let deadline = Instant::now() + STREAM_CREATION;
    let pair = pairs.entry(id.clone()).or_insert(Pair { port, data: None, error: None, deadline });
    let place = if kind == "data" { &mut pair.data } else { &mut pair.error };
    if place.is_some() || pair.port != port {
        stream.reset(RstStatus::REFUSED_STREAM);
        return None;
    }
    *place = Some(stream);
    match pairs.remove(&id)? {
        Pair { data: Some(data), error: Some(error), port, .. } => Some((data, error, port)),
        half => {
            pairs.insert(id, half);
            None
        }
    }
}

async fn give_up(pair: Pair) {
    if let Some(error) = pair.error {
        tell(error, "timed out waiting for the data stream of the pair").await;
    }
}

async fn tell(mut stream: impl tokio::io::AsyncWrite + Unpin, message: &str) {
    let sent = stream.write_all(message.as_bytes()).await;
    if let Err(error) = sent.and(stream.shutdown().await) {
        tracing::debug!(%error, message, "client did not wait for the error");
    }
}

async fn forward(mut data: Stream, mut error: Stream, port: u16, target: Arc<str>, connect: Connect) {
    let gone = data.dead();
    let work = async {
        match connect(port).await {
            // A broken conversation is the two ends' affair: kubectl takes any error here as the end of everything.
            Ok(mut io) => {
                if let Err(error) = copy_both(&mut data, &mut io, None).await {
                    tracing::debug!(%error, port, "forwarded connection");
                }
                let _ = error.shutdown().await;
            }
            Err(cause) => tell(error, &failure(port, &target, &cause)).await,
        }
        let _ = data.shutdown().await;
    };
    tokio::select! {
        () = work => {}
        () = gone.cancelled() => {}
    }
}

fn failure(port: u16, target: &str, cause: &io::Error) -> String {
    format!("error forwarding port {port} to {target}: {cause}")
}

async fn serve_channels(io: impl Io + 'static, codec: Codec, ports: &[u16], target: &str, connect: Connect) {
    let readable: Vec<bool> = ports.iter().flat_map(|_| [true, false]).collect();
    let mut mux = Mux::start(io, codec, false, &readable).await;
    let closed = mux.closed();
    let mut running = JoinSet::new();
    for (index, port) in ports.iter().enumerate() {
        let channel = (index * 2) as u8;
        let Some(from) = mux.reader(channel) else {
            continue;
        };
        let (to, error) = (mux.writer(channel), mux.writer(channel + 1));
        running.spawn(forward_channel(from, to, error, *port, target.to_string(), connect.clone()));
    }
    tokio::select! {
        () = async { while running.join_next().await.is_some() {} } => mux.close().await,
        () = closed.cancelled() => {}
    }
}

async fn forward_channel(
    mut from: BoxRead,
    mut to: ChannelWriter,
    mut error: ChannelWriter,
    port: u16,
    target: String,
    connect: Connect,
) {
    let work = async {
        // Both channels begin with the port.
        to.write_all(&port.to_le_bytes()).await?;
        error.write_all(&port.to_le_bytes()).await?;
        let (mut reading, mut writing) = tokio::io::split(connect(port).await?);
        let upload = async {
            let copied = tokio::io::copy(&mut from, &mut writing).await;
            if let Err(error) = copied.map(drop).and(writing.shutdown().await) {
                tracing::debug!(%error, port, "forwarded connection");
            }
            std::future::pending().await
        };
        let download = async { tokio::io::copy(&mut reading, &mut to).await };
        // The target's end is the end: there is no half-close towards the client.
        tokio::select! {
            done = download => {
                if let Err(error) = done {
                    tracing::debug!(%error, port, "forwarded connection");
                }
                Ok(())
            }
            done = upload => done,
        }
    };
    if let Err(cause) = work.await {
        tell(error, &failure(port, &target, &cause)).await;
    }
    // What the client still sends is taken and dropped, so that its other channels go on.
    let mut rest = [0; 4096];
    while from.read(&mut rest).await.is_ok_and(|n| n > 0) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_a_query() {
        for (query, want) in [
            ("ports=80", Some(vec![80])),
            ("ports=80&x=1&ports=81", Some(vec![80, 81])),
            ("ports=80%2C81", Some(vec![80, 81])),
            ("", None),
            ("ports=0", None),
            ("ports=70000", None),
            ("ports=http", None),
        ] {
            assert_eq!(ports(query).ok(), want, "{query}");
        }
    }
}
