//! The serving side, for kubectl and other clients.

use super::{Error, Options, Outcome, TerminalSize};
use crate::websocket::{self, Codec, Mux};
use crate::{BoxRead, BoxWrite, Refusal, spdy, upgrade};
use axum::body::Body;
use http::{Request, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Subprotocols over WebSocket. The unnamed one is for clients that offer none.
const WEBSOCKET: &[&str] = &[
    "",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "v5.channel.k8s.io",
];
/// Versions over SPDY.
const SPDY: &[&str] = &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// A client has this long to open its streams.
const STREAM_CREATION: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    WebSocket { codec: Codec, half_close: bool },
    Spdy { resizes: bool },
}

/// A request that has been answered but whose connection has not gone over yet.
pub struct Pending {
    upgrade: OnUpgrade,
    options: Options,
    wire: Wire,
    /// Whether the outcome is sent as a `Status` document.
    status_document: bool,
}

/// Chooses a protocol. Send the response, then [`Pending::open`].
pub fn accept<B>(request: &mut Request<B>, options: Options) -> Result<(Response<Body>, Pending), Refusal> {
    let headers = request.headers();
    let (response, wire, protocol) = if websocket::is_requested(headers) {
        let (response, protocol) = websocket::negotiate(headers, WEBSOCKET)?;
        let codec = if protocol.contains("base64") { Codec::Base64 } else { Codec::Raw };
        (response, Wire::WebSocket { codec, half_close: protocol.starts_with("v5.") }, protocol)
    } else {
        let (response, protocol) = upgrade::spdy(headers, SPDY)?;
        let resizes = protocol.starts_with("v3.") || protocol.starts_with("v4.");
        (response, Wire::Spdy { resizes }, protocol)
    };
    let status_document = protocol.starts_with("v4.") || protocol.starts_with("v5.");
    let upgrade = hyper::upgrade::on(request);
    Ok((response, Pending { upgrade, options, wire, status_document }))
}

enum Transport {
    WebSocket(Mux),
    Spdy(spdy::Connection),
}

/// A client's streams. Take what is wanted, then [`Session::finish`].
pub struct Session {
    /// The client's input.
    pub stdin: Option<BoxRead>,
    /// Output.
    pub stdout: Option<BoxWrite>,
    /// Error output.
    pub stderr: Option<BoxWrite>,
    /// Sizes of the client's terminal.
    pub resize: Option<mpsc::Receiver<TerminalSize>>,
    error: BoxWrite,
    transport: Transport,
    closed: CancellationToken,
    status_document: bool,
}

impl Pending {
    /// Waits for the connection to go over and for the client to open its streams.
    pub async fn open(self) -> Result<Session, Error> {
        let upgraded = self.upgrade.await.map_err(|error| Error::Upgrade(error.to_string()))?;
        let io = TokioIo::new(upgraded);
        match self.wire {
            Wire::WebSocket { codec, half_close } => {
                let readable = [self.options.stdin, false, false, false, self.options.tty];
                let mux = Mux::start(io, codec, half_close, &readable).await;
                Session::over_websocket(mux, self.options, self.status_document).await
            }
            Wire::Spdy { resizes } => {
                let opening = Session::over_spdy(io, self.options, resizes, self.status_document);
                let late = |_| Error::Client("did not open its streams in time".into());
                tokio::time::timeout(STREAM_CREATION, opening).await.map_err(late)?
            }
        }
    }
}

impl Session {
    async fn over_websocket(mut mux: Mux, options: Options, status_document: bool) -> Result<Self, Error> {
        let writer = |wanted: bool, channel| wanted.then(|| Box::new(mux.writer(channel)) as BoxWrite);
        let (stdout, stderr) = (writer(options.stdout, STDOUT), writer(options.stderr, STDERR));
        let first = match (options.stdout, options.stderr) {
            (true, _) => STDOUT,
            (false, true) => STDERR,
            (false, false) => ERROR,
        };
        let gone = |error: std::io::Error| Error::Client(error.to_string());
        mux.writer(first).announce().await.map_err(gone)?;
        let error = Box::new(mux.writer(ERROR));
        Ok(Self {
            stdin: mux.reader(STDIN),
            stdout,
            stderr,
            resize: mux.reader(RESIZE).map(sizes),
            error,
            closed: mux.closed(),
            transport: Transport::WebSocket(mux),
            status_document,
        })
    }

    async fn over_spdy(
        io: impl crate::Io + 'static,
        options: Options,
        resizes: bool,
        status_document: bool,
    ) -> Result<Self, Error> {
        let (connection, mut incoming) = spdy::server(io);
        let mut wanted = vec!["error"];
        for (want, kind) in [
            (options.stdin, "stdin"),
            (options.stdout, "stdout"),
            (options.stderr, "stderr"),
            (options.tty && resizes, "resize"),
        ] {
            wanted.extend(want.then_some(kind));
        }
        let mut streams: std::collections::HashMap<&str, spdy::Stream> = std::collections::HashMap::new();
        while streams.len() < wanted.len() {
            let Some(stream) = incoming.accept().await else {
                return Err(Error::Client("went away before it opened its streams".into()));
            };
            let kind = stream.headers().get("streamtype").unwrap_or_default().to_string();
            match wanted.iter().find(|known| **known == kind) {
                Some(known) => drop(streams.insert(known, stream)),
                None => {
                    return Err(Error::Client(format!("opened a stream of unexpected type {kind:?}")));
                }
            }
        }
        let mut writer = |kind| streams.remove(kind).map(|stream| Box::new(stream) as BoxWrite);
        let (stdout, stderr) = (writer("stdout"), writer("stderr"));
        let error = writer("error").ok_or_else(|| Error::Client("opened no error stream".into()))?;
        let mut reader = |kind| streams.remove(kind).map(|stream| Box::new(stream) as BoxRead);
        Ok(Self {
            stdin: reader("stdin"),
            resize: reader("resize").map(sizes),
            stdout,
            stderr,
            error,
            closed: connection.token(),
            transport: Transport::Spdy(connection),
            status_document,
        })
    }

    /// Ends when the client has gone.
    pub fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// Tells the client how the command ended, after all output, and closes the connection.
    pub async fn finish(mut self, outcome: &Outcome) {
        for writer in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
            // The client may have closed it first.
            let _ = writer.shutdown().await;
        }
        let text = match self.status_document {
            true => outcome.status().to_string().into_bytes(),
            false => outcome.plain(),
        };
        let sent = self.error.write_all(&text).await;
        if let Err(error) = sent.and(self.error.shutdown().await) {
            tracing::debug!(%error, "client did not wait for the command's outcome");
        }
        match self.transport {
            Transport::WebSocket(mux) => mux.close().await,
            Transport::Spdy(connection) => connection.close().await,
        }
    }
}

/// Sizes out of a stream of JSON documents.
fn sizes(mut reader: BoxRead) -> mpsc::Receiver<TerminalSize> {
    let (sender, receiver) = mpsc::channel(8);
    tokio::spawn(async move {
        let mut text = Vec::new();
        loop {
            let read = tokio::select! {
                read = reader.read_buf(&mut text) => read,
                () = sender.closed() => return,
            };
            if !read.is_ok_and(|n| n > 0) {
                return;
            }
            let mut documents = serde_json::Deserializer::from_slice(&text).into_iter::<TerminalSize>();
            let mut done = 0;
            while let Some(size) = documents.next() {
                match size {
                    Ok(size) if sender.send(size).await.is_ok() => done = documents.byte_offset(),
                    Err(error) if error.is_eof() => break,
                    _ => return,
                }
            }
            text.drain(..done);
        }
    });
    receiver
}
