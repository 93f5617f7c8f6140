//! The connection: one task reads, one writes.

use super::Error;
use super::frame::{Decoder, Encoder, Frame, Head, Headers, RstStatus};
use super::stream::{DEFAULT_WINDOW, RECEIVE_WINDOW, Shared, Stream};
use crate::io::Io;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// Data frames that may wait to be written.
const QUEUED_DATA: usize = 32;
/// Streams at a time.
const MAX_STREAMS: usize = 4096;
/// Data is handed on in pieces of this size.
const PIECE: usize = 64 << 10;
/// How long a closed connection still reads, so that what we sent last is not lost to a reset.
const LINGER: Duration = Duration::from_secs(3);
/// The identifier of the initial window among the settings.
const SETTINGS_INITIAL_WINDOW: u32 = 7;

/// A frame on its way, holding its place in the queue.
pub(super) struct Outgoing {
    pub(super) frame: Frame,
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

/// What streams need of their connection.
#[derive(Clone)]
pub(super) struct Link {
    outgoing: mpsc::UnboundedSender<Outgoing>,
    pub(super) budget: Arc<Semaphore>,
    pub(super) peer_has_windows: Arc<AtomicBool>,
    streams: Arc<Mutex<HashMap<u32, Arc<Shared>>>>,
}

impl Link {
    /// Queues a frame in order; lost if the connection has ended.
    pub(super) fn queue(&self, outgoing: Outgoing) {
        let _ = self.outgoing.send(outgoing);
    }

    /// Queues a small frame.
    pub(super) fn send(&self, frame: Frame) {
        self.queue(Outgoing { frame, permit: None });
    }

    pub(super) fn forget(&self, id: u32) {
        self.streams.lock().remove(&id);
    }
}

/// What the handle and the reading task share.
#[derive(Clone)]
struct Core {
    link: Link,
    next_id: Arc<AtomicU32>,
    /// The window that the peer grants each stream at first.
    window: Arc<AtomicI64>,
    closed: CancellationToken,
}

/// A handle to open streams and to end the connection. When the last clone is dropped, the connection ends after what is
/// queued has been written.
#[derive(Clone)]
pub struct Connection {
    core: Core,
    _goodbye: Arc<Goodbye>,
}

struct Goodbye(Link);

impl Drop for Goodbye {
    fn drop(&mut self) {
        self.0.send(Frame::GoAway { last: 0, status: 0 });
    }
}

/// The streams that the peer opens.
pub struct Incoming {
    streams: mpsc::Receiver<Stream>,
}

impl Incoming {
    /// The next stream, accepted; None once the connection has ended.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("closed", &self.core.closed.is_cancelled()).finish_non_exhaustive()
    }
}

impl Connection {
    /// Opens a stream and waits until the peer accepts it.
    pub async fn open(&self, headers: Headers) -> Result<Stream, Error> {
        let id = self.core.next_id.fetch_add(2, Ordering::Relaxed);
        let shared = Shared::new(id, self.core.window.load(Ordering::Acquire), false);
        self.core.link.streams.lock().insert(id, shared.clone());
        let stream = Stream::new(headers.clone(), shared.clone(), self.core.link.clone());
        self.core.link.send(Frame::SynStream { stream: id, headers, fin: false });
        tokio::select! {
            // The peer may have accepted, said all it had to say and gone, before we get to look.
            biased;
            accepted = shared.answered() => if accepted { Ok(stream) } else { Err(Error::Refused(id)) },
            () = self.core.closed.cancelled() => Err(Error::Closed),
        }
    }

    /// Writes what is queued, says goodbye and ends all streams.
    pub async fn close(&self) {
        self.core.link.send(Frame::GoAway { last: 0, status: 0 });
        self.core.closed.cancelled().await;
    }

    /// Cancelled when the connection has ended.
    pub(crate) fn token(&self) -> CancellationToken {
        self.core.closed.clone()
    }

    /// Completes when the connection has ended, from whatever side.
    pub async fn closed(&self) {
        self.core.closed.cancelled().await;
    }
}

/// Speaks SPDY as the side that accepted the connection.
pub fn server(io: impl Io + 'static) -> (Connection, Incoming) {
    start(Box::new(io), 2)
}

/// Speaks SPDY as the side that made the connection.
pub fn client(io: impl Io + 'static) -> (Connection, Incoming) {
    start(Box::new(io), 1)
}

fn start(io: crate::BoxIo, first_id: u32) -> (Connection, Incoming) {
    let (reading, writing) = tokio::io::split(io);
    let (outgoing, queue) = mpsc::unbounded_channel();
    let (incoming, streams) = mpsc::channel(MAX_STREAMS);
    let link = Link {
        outgoing,
        budget: Arc::new(Semaphore::new(QUEUED_DATA)),
        peer_has_windows: Arc::default(),
        streams: Arc::default(),
    };
    let core = Core {
        link,
        next_id: Arc::new(AtomicU32::new(first_id)),
        window: Arc::new(AtomicI64::new(i64::from(DEFAULT_WINDOW))),
        closed: CancellationToken::new(),
    };
    core.link.send(Frame::Settings(vec![(0, SETTINGS_INITIAL_WINDOW, RECEIVE_WINDOW)]));
    let broken = CancellationToken::new();
    let budget = core.link.budget.clone();
    tokio::spawn(write(writing, queue, core.closed.clone(), broken.clone(), budget));
    let reader = Reader {
        io: reading,
        decoder: Decoder::default(),
        core: core.clone(),
        incoming,
        broken,
        ungranted: 0,
    };
    tokio::spawn(reader.run());
    let goodbye = Arc::new(Goodbye(core.link.clone()));
    (Connection { core, _goodbye: goodbye }, Incoming { streams })
}

/// Writes frames until told to go away or the connection ends. If writing fails, the peer may have said its last words
/// before it went: that is for the reader to find out.
async fn write(
    mut io: WriteHalf<crate::BoxIo>,
    mut queue: mpsc::UnboundedReceiver<Outgoing>,
    closed: CancellationToken,
    broken: CancellationToken,
    budget: Arc<Semaphore>,
) {
    let mut encoder = Encoder::default();
    let work = async {
        while let Some(Outgoing { frame, permit }) = queue.recv().await {
            let last = matches!(frame, Frame::GoAway { .. });
            let bytes = encoder.encode(&frame).map_err(std::io::Error::other)?;
            io.write_all(&bytes).await?;
            drop(permit);
            if queue.is_empty() || last {
                io.flush().await?;
            }
            if last {
                break;
            }
        }
        io.shutdown().await
    };
    let done = tokio::select! {
        () = closed.cancelled() => return,
        done = work => done,
    };
    match done {
        Ok(()) => closed.cancel(),
        Err(error) => {
            tracing::debug!(%error, "SPDY connection");
            budget.close();
            broken.cancel();
        }
    }
}

struct Reader {
    io: ReadHalf<crate::BoxIo>,
    decoder: Decoder,
    core: Core,
    incoming: mpsc::Sender<Stream>,
    /// Writing has failed.
    broken: CancellationToken,
    /// Received and not granted again, for the window of the whole connection.
    ungranted: usize,
}

impl Reader {
    async fn run(mut self) {
        let closed = self.core.closed.clone();
        let broken = self.broken.clone();
        let given_up = async {
            broken.cancelled().await;
            tokio::time::sleep(LINGER).await;
        };
        tokio::select! {
            () = closed.cancelled() => {}
            () = given_up => {}
            result = self.read() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "SPDY connection");
                }
            }
        }
        let ended_by_us = closed.is_cancelled();
        closed.cancel();
        self.core.link.budget.close();
        let streams: Vec<_> = self.core.link.streams.lock().drain().collect();
        streams.into_iter().for_each(|(_, shared)| shared.kill());
        drop(self.incoming);
        if ended_by_us {
            let mut rest = vec![0; PIECE];
            let drain = async { while self.io.read(&mut rest).await.is_ok_and(|n| n > 0) {} };
            let _ = tokio::time::timeout(LINGER, drain).await;
        }
    }

    async fn read(&mut self) -> Result<(), Error> {
        let failed = |error: std::io::Error| Error::Protocol(error.to_string());
        loop {
            let mut head = [0; 8];
            match self.io.read_exact(&mut head).await {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(failed(error)),
            }
            match Head::parse(head)? {
                Head::Data { stream, fin, length } => self.data(stream, fin, length).await?,
                Head::Control { kind, flags, length } => {
                    let mut payload = vec![0; length];
                    self.io.read_exact(&mut payload).await.map_err(failed)?;
                    let frame = self.decoder.control(kind, flags, &payload)?;
                    if let Some(Frame::GoAway { .. }) = frame {
                        return Ok(());
                    }
                    if let Some(frame) = frame {
                        self.control(frame)?;
                    }
                }
            }
        }
    }

    fn stream(&self, id: u32) -> Option<Arc<Shared>> {
        self.core.link.streams.lock().get(&id).cloned()
    }

    async fn data(&mut self, id: u32, fin: bool, mut length: usize) -> Result<(), Error> {
        let stream = self.stream(id);
        loop {
            let mut piece = vec![0; length.min(PIECE)];
            let read = self.io.read_exact(&mut piece).await;
            read.map_err(|error| Error::Protocol(error.to_string()))?;
            length -= piece.len();
            self.ungranted += piece.len();
            if let Some(stream) = &stream
                && !stream.receive(Bytes::from(piece), fin && length == 0)
            {
                stream.has_room().await;
            }
            if length == 0 {
                break;
            }
        }
        if self.ungranted >= DEFAULT_WINDOW as usize / 2 {
            let delta = std::mem::take(&mut self.ungranted) as u32;
            self.core.link.send(Frame::WindowUpdate { stream: 0, delta });
        }
        Ok(())
    }

    fn control(&mut self, frame: Frame) -> Result<(), Error> {
        let link = &self.core.link;
        match frame {
            Frame::SynStream { stream, headers, fin } => self.opened(stream, headers, fin)?,
            Frame::SynReply { stream, fin, .. } | Frame::Headers { stream, fin, .. } => {
                if let Some(stream) = self.stream(stream) {
                    stream.reply(fin);
                }
            }
            Frame::Rst { stream, .. } => {
                let gone = link.streams.lock().remove(&stream);
                if let Some(stream) = gone {
                    stream.kill();
                }
            }
            Frame::Settings(settings) => {
                for (_, id, value) in settings {
                    if id == SETTINGS_INITIAL_WINDOW {
                        link.peer_has_windows.store(true, Ordering::Release);
                        let value = i64::from(value & 0x7fff_ffff);
                        let before = self.core.window.swap(value, Ordering::AcqRel);
                        link.streams.lock().values().for_each(|stream| stream.grant(value - before));
                    }
                }
            }
            // Ours come back with the parity of our streams; we send none.
            Frame::Ping(id) => {
                if id % 2 != self.core.next_id.load(Ordering::Relaxed) % 2 {
                    link.send(Frame::Ping(id));
                }
            }
            // 3.1 also has a window for the connection. No peer we know enforces it; we grant it and do not count it.
            Frame::WindowUpdate { stream: 0, .. } => {}
            Frame::WindowUpdate { stream, delta } => {
                link.peer_has_windows.store(true, Ordering::Release);
                if let Some(stream) = self.stream(stream) {
                    stream.grant(i64::from(delta));
                }
            }
            Frame::Data { .. } | Frame::GoAway { .. } => {}
        }
        Ok(())
    }

    fn opened(&mut self, id: u32, headers: Headers, fin: bool) -> Result<(), Error> {
        let link = self.core.link.clone();
        let ours = self.core.next_id.load(Ordering::Relaxed) % 2;
        if id == 0 || id % 2 == ours {
            return Err(Error::Protocol(format!("stream {id} is not the peer's to open")));
        }
        let shared = Shared::new(id, self.core.window.load(Ordering::Acquire), fin);
        {
            let mut streams = link.streams.lock();
            if streams.contains_key(&id) {
                return Err(Error::Protocol(format!("stream {id} opened twice")));
            }
            if streams.len() >= MAX_STREAMS {
                link.send(Frame::Rst { stream: id, status: RstStatus::REFUSED_STREAM });
                return Ok(());
            }
            streams.insert(id, shared.clone());
        }
        link.send(Frame::SynReply { stream: id, headers: Headers::default(), fin: false });
        // Dropping it, if nobody accepts streams, resets it.
        let _ = self.incoming.try_send(Stream::new(headers, shared, link));
        Ok(())
    }
}
