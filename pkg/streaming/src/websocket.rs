//! Kubernetes over WebSocket: numbered channels, one byte (or one base64 digit) before each message; and a plain byte
//! stream carried in binary messages.
//!
//! Entry points: [`negotiate`] for the hand-shake, [`Mux::start`] for channels, [`tunnel`] for a byte stream.

use crate::upgrade::{Refusal, list, switching, wants};
use crate::{BoxIo, BoxRead, Io};
use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::Response;
use http::header::{HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};
use tokio_util::sync::{CancellationToken, PollSender};

/// Bytes of a channel that may wait for their reader.
const WAITING: usize = 64 << 10;
/// Messages that may wait to be written.
const QUEUED: usize = 32;
/// The largest message we send.
const MAX_PIECE: usize = 32 << 10;
/// The largest message we take.
const MAX_MESSAGE: usize = 16 << 20;
/// How long a closed connection still reads, so that what we sent last is not lost to a reset.
const LINGER: Duration = Duration::from_secs(3);
/// "Channel n is done", in protocols that have half-close.
const CLOSE_SIGNAL: u8 = 255;

/// How messages carry bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Binary messages.
    Raw,
    /// Text messages.
    Base64,
}

/// Whether the client asks for WebSocket.
pub fn is_requested(headers: &HeaderMap) -> bool {
    wants(headers, "websocket")
}

/// The subprotocols that the client offers, in its order.
pub fn offered(headers: &HeaderMap) -> Vec<&str> {
    list(headers, SEC_WEBSOCKET_PROTOCOL.as_str())
}

/// The hand-shake: the first subprotocol that the client offers and we know, with the response. A client that offers
/// none gets "" if that is known.
pub fn negotiate<'k>(headers: &HeaderMap, known: &[&'k str]) -> Result<(Response<Body>, &'k str), Refusal> {
    let version = headers.get("sec-websocket-version").and_then(|value| value.to_str().ok());
    if version != Some("13") {
        let mut refusal =
            Refusal::bad_request(format!("WebSocket version {version:?} is not supported, 13 is"));
        refusal.headers.push((http::header::SEC_WEBSOCKET_VERSION, "13".into()));
        return Err(refusal);
    }
    let Some(key) = headers.get("sec-websocket-key") else {
        return Err(Refusal::bad_request("header Sec-WebSocket-Key is missing from the request"));
    };
    let mut offers = offered(headers);
    if offers.is_empty() {
        offers.push("");
    }
    let Some(chosen) = offers.iter().find_map(|offer| known.iter().find(|name| *name == offer)) else {
        let message = format!("requested protocol(s) are not supported: {offers:?}; supports {known:?}");
        return Err(Refusal::new(http::StatusCode::FORBIDDEN, message));
    };
    let mut response = switching("websocket");
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if !chosen.is_empty()
        && let Ok(value) = HeaderValue::from_str(chosen)
    {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
    Ok((response, chosen))
}

/// The subprotocols of a stream without channels, for [`send`].
pub const PLAIN: &[&str] = &["", "binary.k8s.io", "base64.binary.k8s.io"];

/// Sends a body as messages and says goodbye; ends early when the client goes away.
///
/// # Errors
/// What the connection or the body raises.
pub async fn send(io: impl Io + 'static, codec: Codec, body: Body) -> io::Result<()> {
    let (mut to, mut from) = socket(io, Role::Server).await.split();
    let mut data = body.into_data_stream();
    loop {
        let chunk = tokio::select! {
            message = from.next() => match message {
                Some(Ok(message)) if !message.is_close() => continue,
                _ => return Ok(()),
            },
            chunk = data.next() => chunk,
        };
        let Some(chunk) = chunk else { break };
        for piece in chunk.map_err(io::Error::other)?.chunks(MAX_PIECE) {
            let message = match codec {
                Codec::Raw => Message::Binary(Bytes::copy_from_slice(piece)),
                Codec::Base64 => Message::Text(STANDARD.encode(piece).into()),
            };
            to.send(message).await.map_err(io::Error::other)?;
        }
    }
    to.send(goodbye()).await.map_err(io::Error::other)?;
    let answer = async { while let Some(Ok(_)) = from.next().await {} };
    // Whether the client answers the goodbye is its affair.
    let _ = tokio::time::timeout(LINGER, answer).await;
    Ok(())
}

type Socket = WebSocketStream<BoxIo>;

async fn socket(io: impl Io + 'static, role: Role) -> Socket {
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(Box::new(io) as BoxIo, role, Some(config)).await
}

fn bytes_of(message: Message) -> Option<Bytes> {
    match message {
        Message::Binary(bytes) => Some(bytes),
        Message::Text(text) => Some(text.into()),
        _ => None,
    }
}

fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// Channels over a WebSocket.
pub struct Mux {
    outgoing: mpsc::Sender<Message>,
    codec: Codec,
    readers: Vec<Option<DuplexStream>>,
    closed: CancellationToken,
    flushed: CancellationToken,
}

impl Mux {
    /// Serves channels `0..readable.len()`; those marked are read by us. `half_close`: the client can end a channel.
    pub async fn start(io: impl Io + 'static, codec: Codec, half_close: bool, readable: &[bool]) -> Self {
        let (sink, stream) = socket(io, Role::Server).await.split();
        let (outgoing, queue) = mpsc::channel(QUEUED);
        let (closed, flushed) = (CancellationToken::new(), CancellationToken::new());
        let (mut readers, mut inlets) = (Vec::new(), Vec::new());
        for readable in readable {
            let (near, far) = tokio::io::duplex(WAITING);
            readers.push(readable.then_some(near));
            inlets.push(readable.then_some(far));
        }
        tokio::spawn(write(sink, queue, closed.clone(), flushed.clone()));
        let demux = Demux { codec, half_close, inlets };
        tokio::spawn(demux.run(stream, closed.clone(), flushed.clone()));
        Self { outgoing, codec, readers, closed, flushed }
    }

    /// What the client sends on a channel; once.
    pub fn reader(&mut self, channel: u8) -> Option<BoxRead> {
        let reader = self.readers.get_mut(usize::from(channel))?.take()?;
        Some(Box::new(reader))
    }

    /// Sends on a channel. Shutting it down does nothing: the protocol has no half-close towards clients.
    pub fn writer(&self, channel: u8) -> ChannelWriter {
        ChannelWriter { channel, codec: self.codec, sender: PollSender::new(self.outgoing.clone()) }
    }

    /// Ends when the client has gone.
    pub fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// Writes what is queued and says goodbye.
    pub async fn close(self) {
        if self.outgoing.send(goodbye()).await.is_ok() {
            self.flushed.cancelled().await;
        }
    }
}

async fn write(
    mut sink: SplitSink<Socket, Message>,
    mut queue: mpsc::Receiver<Message>,
    closed: CancellationToken,
    flushed: CancellationToken,
) {
    let work = async {
        while let Some(message) = queue.recv().await {
            let last = matches!(message, Message::Close(_));
            let sent =
                if queue.is_empty() || last { sink.send(message).await } else { sink.feed(message).await };
            if let Err(error) = sent {
                tracing::debug!(%error, "WebSocket");
                closed.cancel();
                return;
            }
            if last {
                return;
            }
        }
        if let Err(error) = sink.send(goodbye()).await {
            tracing::debug!(%error, "WebSocket");
        }
    };
    tokio::select! {
        () = closed.cancelled() => {}
        () = work => {}
    }
    flushed.cancel();
}

struct Demux {
    codec: Codec,
    half_close: bool,
    inlets: Vec<Option<DuplexStream>>,
}

impl Demux {
    async fn run(
        mut self,
        mut stream: SplitStream<Socket>,
        closed: CancellationToken,
        flushed: CancellationToken,
    ) {
        let work = async {
            while let Some(message) = stream.next().await {
                let message = match message {
                    Ok(message) => message,
                    Err(error) => {
                        tracing::debug!(%error, "WebSocket");
                        return;
                    }
                };
                if let Some(bytes) = bytes_of(message)
                    && !self.take(&bytes).await
                {
                    return;
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = flushed.cancelled() => {}
        }
        self.inlets.clear();
        closed.cancel();
        let drain = async { while stream.next().await.is_some_and(|message| message.is_ok()) {} };
        let _ = tokio::time::timeout(LINGER, drain).await;
    }

    /// Hands a message to its channel; false if the client breaks the protocol.
    async fn take(&mut self, message: &[u8]) -> bool {
        let Some((first, data)) = message.split_first() else {
            return true;
        };
        if self.half_close && *first == CLOSE_SIGNAL {
            let channel = match data {
                [channel] => self.inlets.get_mut(usize::from(*channel)),
                _ => None,
            };
            // Dropping the inlet ends the channel.
            return channel.map(Option::take).is_some();
        }
        let channel = if self.codec == Codec::Base64 { first.wrapping_sub(b'0') } else { *first };
        let Some(inlet) = self.inlets.get_mut(usize::from(channel)) else {
            return true;
        };
        let Some(writer) = inlet else { return true };
        let written = match self.codec {
            Codec::Raw => writer.write_all(data).await,
            Codec::Base64 => match STANDARD.decode(data) {
                Ok(data) => writer.write_all(&data).await,
                Err(_) => return false,
            },
        };
        if written.is_err() {
            // Nobody reads the channel any more; the rest of it is of no interest.
            *inlet = None;
        }
        true
    }
}

/// The writing end of a channel.
pub struct ChannelWriter {
    channel: u8,
    codec: Codec,
    sender: PollSender<Message>,
}

impl ChannelWriter {
    fn message(&self, data: &[u8]) -> Message {
        match self.codec {
            Codec::Raw => {
                let mut bytes = BytesMut::with_capacity(data.len() + 1);
                bytes.put_u8(self.channel);
                bytes.extend_from_slice(data);
                Message::Binary(bytes.freeze())
            }
            Codec::Base64 => {
                let mut text = String::from(char::from(b'0' + self.channel));
                STANDARD.encode_string(data, &mut text);
                Message::text(text)
            }
        }
    }

    /// Sends a message without bytes: tells the client that the connection stands.
    pub async fn announce(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_message(cx, &[])).await.map(drop)
    }

    fn poll_message(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the WebSocket is closed");
        if ready!(self.sender.poll_reserve(cx)).is_err() {
            return Poll::Ready(Err(gone()));
        }
        let message = self.message(data);
        Poll::Ready(self.sender.send_item(message).map(|()| data.len()).map_err(|_| gone()))
    }
}

impl AsyncWrite for ChannelWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.poll_message(cx, &buf[..buf.len().min(MAX_PIECE)])
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The byte stream inside a WebSocket's binary messages, on the side that accepted it.
pub async fn tunnel(io: impl Io + 'static) -> DuplexStream {
    carry(socket(io, Role::Server).await)
}

/// The same on the side that asked for it, after the hand-shake.
pub async fn tunnel_client(io: impl Io + 'static) -> DuplexStream {
    carry(socket(io, Role::Client).await)
}

fn carry(socket: Socket) -> DuplexStream {
    let (mut sink, mut stream) = socket.split();
    let (near, far) = tokio::io::duplex(WAITING);
    let (mut outgoing, mut incoming) = tokio::io::split(far);
    tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            let Message::Binary(bytes) = message else {
                continue;
            };
            if incoming.write_all(&bytes).await.is_err() {
                // We said goodbye: read on for a while, so that it is not lost to a reset.
                let drain = async { while stream.next().await.is_some_and(|message| message.is_ok()) {} };
                let _ = tokio::time::timeout(LINGER, drain).await;
                return;
            }
        }
        let _ = incoming.shutdown().await;
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; MAX_PIECE];
        while let Ok(n) = outgoing.read(&mut buffer).await {
            let message =
                if n == 0 { goodbye() } else { Message::Binary(Bytes::copy_from_slice(&buffer[..n])) };
            if sink.send(message).await.is_err() || n == 0 {
                return;
            }
        }
    });
    near
}
