//! Byte streams behind boxes.

use bytes::{Buf, Bytes};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

/// A byte stream in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Any byte stream in both directions.
pub type BoxIo = Box<dyn Io>;
/// Anything to read from.
pub type BoxRead = Box<dyn AsyncRead + Send + Unpin>;
/// Anything to write to; shutting it down half-closes.
pub type BoxWrite = Box<dyn AsyncWrite + Send + Unpin>;

/// How long one direction goes on after the other has failed.
const LINGER: Duration = Duration::from_secs(10);

/// Copies both ways between two streams, each way to its end, which is passed on. A way that cannot be written to does not
/// stop the other at once: what a peer said before it stopped listening still arrives. `after_end` bounds the time that one
/// way goes on after the other has ended well; None does not. Gives the first failure.
pub(crate) async fn copy_both(
    a: &mut impl Io,
    b: &mut impl Io,
    after_end: Option<Duration>,
) -> std::io::Result<()> {
    let (mut a_in, mut a_out) = tokio::io::split(a);
    let (mut b_in, mut b_out) = tokio::io::split(b);
    let up = async {
        tokio::io::copy(&mut a_in, &mut b_out).await?;
        b_out.shutdown().await
    };
    let down = async {
        tokio::io::copy(&mut b_in, &mut a_out).await?;
        a_out.shutdown().await
    };
    tokio::pin!(up, down);
    let rest = |first: &std::io::Result<()>| {
        if first.is_err() { Some(LINGER) } else { after_end }
    };
    tokio::select! {
        first = &mut up => { let limit = rest(&first); first.and(within(limit, down).await) }
        first = &mut down => { let limit = rest(&first); first.and(within(limit, up).await) }
    }
}

async fn within(
    limit: Option<Duration>,
    work: impl Future<Output = std::io::Result<()>>,
) -> std::io::Result<()> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or(Ok(())),
        None => work.await,
    }
}

/// A stream of which some bytes have been read already.
pub struct Prefixed<T> {
    prefix: Bytes,
    inner: T,
}

impl<T> Prefixed<T> {
    /// `prefix` is read first.
    pub fn new(prefix: Bytes, inner: T) -> Self {
        Self { prefix, inner }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Prefixed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let n = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..n]);
        self.prefix.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Prefixed<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
