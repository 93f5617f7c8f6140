//! Both roles of the SPDY implementation against each other.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use knarr_streaming::spdy::{self, Headers, RstStatus};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;

fn pair() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(8 << 10)
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), work).await.expect("in time")
}

/// Echoes every stream, whole.
async fn echo(io: DuplexStream) {
    let (connection, mut incoming) = spdy::server(io);
    while let Some(stream) = incoming.accept().await {
        assert_eq!(stream.headers().get("Kind"), Some("echo"));
        tokio::spawn(async move {
            let (mut from, mut to) = tokio::io::split(stream);
            tokio::io::copy(&mut from, &mut to).await.unwrap();
            to.shutdown().await.unwrap();
        });
    }
    connection.closed().await;
}

#[tokio::test]
async fn many_streams_echo_with_half_close() {
    let (near, far) = pair();
    let server = tokio::spawn(echo(far));
    let (connection, _incoming) = spdy::client(near);
    let mut tasks = Vec::new();
    for n in 0..20usize {
        let connection = connection.clone();
        tasks.push(tokio::spawn(async move {
            let stream = connection.open(Headers::new([("kind", "echo")])).await.unwrap();
            assert_eq!(stream.id() % 2, 1);
            let sent: Vec<u8> = (0..n * 40_000).map(|i| (i % 251) as u8 ^ n as u8).collect();
            let (mut from, mut to) = tokio::io::split(stream);
            let expected = sent.clone();
            let write = async move {
                to.write_all(&sent).await.unwrap();
                to.shutdown().await.unwrap();
            };
            let mut got = Vec::new();
            let read = from.read_to_end(&mut got);
            let (_, read) = tokio::join!(write, read);
            read.unwrap();
            assert!(got == expected, "stream {n}");
        }));
    }
    for task in tasks {
        in_time(task).await.unwrap();
    }
    in_time(connection.close()).await;
    in_time(server).await.unwrap();
}

#[tokio::test]
async fn a_stream_that_nobody_reads_holds_up_only_itself() {
    let (near, far) = pair();
    let (server, mut incoming) = spdy::server(far);
    let (client, _incoming) = spdy::client(near);
    let mut stuck = client.open(Headers::new([("kind", "stuck")])).await.unwrap();
    let unread = incoming.accept().await.unwrap();
    let chunk = vec![1; 16 << 10];
    let mut written = 0;
    while timeout(Duration::from_millis(200), stuck.write_all(&chunk)).await.is_ok() {
        written += chunk.len();
        assert!(written < 1 << 20, "nothing holds the writer back");
    }
    let mut other = client.open(Headers::new([("kind", "other")])).await.unwrap();
    let mut peer = incoming.accept().await.unwrap();
    in_time(other.write_all(b"through")).await.unwrap();
    let mut got = [0; 7];
    in_time(peer.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"through");
    // Dropping it resets the writer's side.
    drop(unread);
    in_time(stuck.dead().cancelled()).await;
    assert!(stuck.write_all(b"x").await.is_err());
    drop((client, server));
}

#[tokio::test]
async fn resets_and_ends() {
    let (near, far) = pair();
    let (server, mut incoming) = spdy::server(far);
    let (client, _incoming) = spdy::client(near);
    let mut stream = client.open(Headers::new([("kind", "x")])).await.unwrap();
    let mut peer = incoming.accept().await.unwrap();
    in_time(peer.write_all(b"last words")).await.unwrap();
    peer.reset(RstStatus::CANCEL);
    let mut got = Vec::new();
    in_time(stream.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got, b"last words");
    let mut open = client.open(Headers::new([("kind", "y")])).await.unwrap();
    let peer = incoming.accept().await.unwrap();
    in_time(server.close()).await;
    let mut rest = Vec::new();
    in_time(open.read_to_end(&mut rest)).await.unwrap();
    in_time(client.closed()).await;
    assert!(client.open(Headers::default()).await.is_err());
    assert!(in_time(incoming.accept()).await.is_none());
    drop(peer);
}

#[tokio::test]
async fn streams_are_refused_when_nobody_accepts() {
    let (near, far) = pair();
    let (_server, incoming) = spdy::server(far);
    drop(incoming);
    let (client, _incoming) = spdy::client(near);
    let mut stream = in_time(client.open(Headers::default())).await.unwrap();
    let mut got = Vec::new();
    in_time(stream.read_to_end(&mut got)).await.unwrap();
    in_time(stream.dead().cancelled()).await;
}

#[tokio::test]
async fn rubbish_ends_the_connection() {
    let (mut near, far) = pair();
    let (server, mut incoming) = spdy::server(far);
    near.write_all(b"GET / HTTP/1.1\r\n\r\n................").await.unwrap();
    near.shutdown().await.unwrap();
    in_time(server.closed()).await;
    assert!(incoming.accept().await.is_none());
}

/// A connection that cannot be written to any more, although the peer's last words can still be read.
struct Deaf {
    inner: DuplexStream,
    left: usize,
}

impl tokio::io::AsyncRead for Deaf {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl tokio::io::AsyncWrite for Deaf {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        if self.left == 0 {
            return std::task::Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into()));
        }
        let n = buf.len().min(self.left);
        let written = std::task::ready!(std::pin::Pin::new(&mut self.inner).poll_write(cx, &buf[..n]))?;
        self.left -= written;
        std::task::Poll::Ready(Ok(written))
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn last_words_arrive_though_nobody_listens() {
    let (near, far) = pair();
    let (client, _incoming) = spdy::client(Deaf { inner: near, left: 20_000 });
    let (server, mut incoming) = spdy::server(far);
    let mut words = client.open(Headers::new([("kind", "words")])).await.unwrap();
    let mut input = client.open(Headers::new([("kind", "input")])).await.unwrap();
    let mut speaker = incoming.accept().await.unwrap();
    let _unread = incoming.accept().await.unwrap();
    let chunk = [0; 4096];
    in_time(async { while input.write_all(&chunk).await.is_ok() {} }).await;
    speaker.write_all(b"exit 3").await.unwrap();
    in_time(server.close()).await;
    let mut got = Vec::new();
    in_time(words.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got, b"exit 3");
    in_time(client.closed()).await;
}
