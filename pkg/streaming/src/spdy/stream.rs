//! One stream.

use super::connection::{Link, Outgoing};
use super::frame::{Frame, Headers, RstStatus};
use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, PollSemaphore};

/// The window each stream has until the peer says otherwise.
pub(super) const DEFAULT_WINDOW: u32 = 64 << 10;
/// The window that we grant each stream.
pub(super) const RECEIVE_WINDOW: u32 = 512 << 10;
/// The largest data frame we send.
const MAX_DATA: usize = 32 << 10;
/// Received bytes that may wait in a stream. A peer that heeds our windows never fills this; one that does not is made to
/// wait, and with it the whole connection.
const MAX_WAITING: usize = 1 << 20;

/// What stream and connection share.
pub(super) struct Shared {
    pub(super) id: u32,
    pub(super) state: Mutex<State>,
    /// Room has been made, or nobody reads any more.
    pub(super) room: Notify,
    dead: CancellationToken,
}

pub(super) struct State {
    received: VecDeque<Bytes>,
    waiting: usize,
    /// Read by the application, not granted again yet.
    ungranted: u32,
    pub(super) replied: bool,
    finished: bool,
    /// Reset by either side, or the connection has ended.
    dead: bool,
    abandoned: bool,
    window: i64,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Shared {
    pub(super) fn new(id: u32, window: i64, fin: bool) -> Arc<Self> {
        let state = State {
            received: VecDeque::new(),
            waiting: 0,
            ungranted: 0,
            replied: false,
            finished: fin,
            dead: false,
            abandoned: false,
            window,
            reader: None,
            writer: None,
        };
        Arc::new(Self { id, state: Mutex::new(state), room: Notify::new(), dead: CancellationToken::new() })
    }

    fn wake(state: &mut State) {
        state.reader.take().into_iter().chain(state.writer.take()).for_each(Waker::wake);
    }

    /// Takes received bytes in; false if the sender of more has to wait for room.
    pub(super) fn receive(&self, payload: Bytes, fin: bool) -> bool {
        let mut state = self.state.lock();
        if !state.finished && !state.dead && !state.abandoned {
            if !payload.is_empty() {
                state.waiting += payload.len();
                state.received.push_back(payload);
            }
            state.finished = fin;
            Self::wake(&mut state);
        }
        state.waiting < MAX_WAITING || state.abandoned || state.dead
    }

    /// Waits until there is room.
    pub(super) async fn has_room(&self) {
        loop {
            let waiting = self.room.notified();
            {
                let state = self.state.lock();
                if state.waiting < MAX_WAITING || state.abandoned || state.dead {
                    return;
                }
            }
            waiting.await;
        }
    }

    pub(super) fn reply(&self, fin: bool) {
        let mut state = self.state.lock();
        state.replied = true;
        state.finished |= fin;
        Self::wake(&mut state);
    }

    /// Both directions end; what was received can still be read.
    pub(super) fn kill(&self) {
        let mut state = self.state.lock();
        state.dead = true;
        Self::wake(&mut state);
        self.room.notify_one();
        self.dead.cancel();
    }

    pub(super) fn grant(&self, delta: i64) {
        let mut state = self.state.lock();
        state.window += delta;
        Self::wake(&mut state);
    }

    /// Completes when the peer has answered the opening: true if it accepted.
    pub(super) async fn answered(&self) -> bool {
        std::future::poll_fn(|cx| {
            let mut state = self.state.lock();
            match (state.replied, state.dead) {
                (true, _) => Poll::Ready(true),
                (false, true) => Poll::Ready(false),
                (false, false) => {
                    state.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// A stream of a connection. Reading ends (without an error) when the peer finishes or resets it or the connection ends;
/// shutting it down finishes our direction; dropping it before both directions are finished resets it.
pub struct Stream {
    headers: Headers,
    shared: Arc<Shared>,
    link: Link,
    budget: PollSemaphore,
    finished: bool,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream")
            .field("id", &self.shared.id)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

impl Stream {
    pub(super) fn new(headers: Headers, shared: Arc<Shared>, link: Link) -> Self {
        let budget = PollSemaphore::new(link.budget.clone());
        Self { headers, shared, link, budget, finished: false }
    }

    /// Its number: odd if the client opened it.
    pub fn id(&self) -> u32 {
        self.shared.id
    }

    /// The headers it was opened with.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Cancelled when it has been reset or the connection has ended.
    pub fn dead(&self) -> CancellationToken {
        self.shared.dead.clone()
    }

    /// Ends it at once in both directions.
    pub fn reset(self, status: RstStatus) {
        self.shared.kill();
        self.link.send(Frame::Rst { stream: self.shared.id, status });
    }

    fn broken() -> io::Error {
        io::Error::new(io::ErrorKind::BrokenPipe, "the SPDY stream is closed")
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.state.lock();
        let Some(first) = state.received.front_mut() else {
            if state.finished || state.dead {
                return Poll::Ready(Ok(()));
            }
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let n = first.len().min(buf.remaining());
        buf.put_slice(&first[..n]);
        first.advance(n);
        if first.is_empty() {
            state.received.pop_front();
        }
        state.waiting -= n;
        state.ungranted += n as u32;
        if state.ungranted >= RECEIVE_WINDOW / 2 && !state.finished && !state.dead {
            let delta = std::mem::take(&mut state.ungranted);
            self.link.send(Frame::WindowUpdate { stream: self.shared.id, delta });
        }
        drop(state);
        self.shared.room.notify_one();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.finished {
            return Poll::Ready(Err(Self::broken()));
        }
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let heeds = self.link.peer_has_windows.load(Ordering::Acquire);
        {
            let mut state = self.shared.state.lock();
            if state.dead {
                return Poll::Ready(Err(Self::broken()));
            }
            if heeds && state.window <= 0 {
                state.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        let Some(permit) = ready!(self.budget.poll_acquire(cx)) else {
            return Poll::Ready(Err(Self::broken()));
        };
        let mut state = self.shared.state.lock();
        if state.dead {
            return Poll::Ready(Err(Self::broken()));
        }
        let allowed = if heeds { usize::try_from(state.window.max(1)).unwrap_or(MAX_DATA) } else { MAX_DATA };
        let n = buf.len().min(MAX_DATA).min(allowed);
        state.window -= n as i64;
        drop(state);
        let payload = Bytes::copy_from_slice(&buf[..n]);
        let frame = Frame::Data { stream: self.shared.id, payload, fin: false };
        self.link.queue(Outgoing { frame, permit: Some(permit) });
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.finished {
            self.finished = true;
            if !self.shared.state.lock().dead {
                self.link.send(Frame::Data { stream: self.shared.id, payload: Bytes::new(), fin: true });
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.abandoned = true;
        state.received.clear();
        state.waiting = 0;
        let over = state.dead || (state.finished && self.finished);
        drop(state);
        self.shared.room.notify_one();
        self.link.forget(self.shared.id);
        if !over {
            self.link.send(Frame::Rst { stream: self.shared.id, status: RstStatus::CANCEL });
        }
    }
}
