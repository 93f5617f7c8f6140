//! Exec, attach, port-forward and the proxy over real HTTP on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::any;
use futures::{SinkExt, StreamExt};
use knarr_streaming::remotecommand::{self, Options, Outcome, TerminalSize};
use knarr_streaming::spdy::{self, Headers};
use knarr_streaming::{BoxIo, portforward, proxy, websocket};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// A command: says hello, echoes its input in capitals, reports the terminal's size, exits with 3.
async fn exec(mut request: Request) -> Response {
    let options = match Options::from_query(request.uri().query().unwrap_or_default()) {
        Ok(options) => options,
        Err(refusal) => return refusal.into_response(),
    };
    let (response, pending) = match remotecommand::accept(&mut request, options) {
        Ok(accepted) => accepted,
        Err(refusal) => return refusal.into_response(),
    };
    let deaf = request.uri().query().unwrap_or_default().contains("deaf");
    tokio::spawn(async move {
        let mut session = pending.open().await.unwrap();
        if deaf {
            session.stdin = None;
        }
        let mut stdout = session.stdout.take().unwrap();
        stdout.write_all(b"hello\n").await.unwrap();
        if let Some(mut stderr) = session.stderr.take() {
            stderr.write_all(b"warning\n").await.unwrap();
            stderr.shutdown().await.unwrap();
        }
        if let Some(mut resize) = session.resize.take() {
            let size = resize.recv().await.unwrap();
            stdout.write_all(format!("{}x{}\n", size.width, size.height).as_bytes()).await.unwrap();
        }
        if let Some(mut stdin) = session.stdin.take() {
            let mut input = Vec::new();
            stdin.read_to_end(&mut input).await.unwrap();
            stdout.write_all(&input.to_ascii_uppercase()).await.unwrap();
        }
        stdout.shutdown().await.unwrap();
        session.finish(&Outcome::exit(3)).await;
    });
    response
}

/// Port 7 echoes, port 9 cannot be reached.
async fn forward(mut request: Request) -> Response {
    let (response, pending) = match portforward::accept(&mut request) {
        Ok(accepted) => accepted,
        Err(refusal) => return refusal.into_response(),
    };
    let connect: portforward::Connect = Arc::new(|port| {
        Box::pin(async move {
            if port != 7 {
                return Err(std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "connection refused"));
            }
            let (near, far) = tokio::io::duplex(1024);
            tokio::spawn(async move {
                let (mut from, mut to) = tokio::io::split(far);
                tokio::io::copy(&mut from, &mut to).await.unwrap();
                to.shutdown().await.unwrap();
            });
            Ok(Box::new(near) as BoxIo)
        })
    });
    tokio::spawn(async move { pending.serve("pod p, uid u", connect).await.unwrap() });
    response
}

async fn pass_on(State(backend): State<SocketAddr>, mut request: Request) -> Response {
    let uri = format!("http://{backend}{}", request.uri().path_and_query().unwrap());
    *request.uri_mut() = uri.parse().unwrap();
    proxy::forward(request, TcpStream::connect(backend).await.unwrap()).await.unwrap()
}

/// Exec on a node: relayed to the runtime behind.
async fn relayed(State(backend): State<SocketAddr>, mut request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default().to_string();
    let options = Options::from_query(&query).unwrap();
    let (response, pending) = remotecommand::accept(&mut request, options).unwrap();
    tokio::spawn(async move {
        let session = pending.open().await.unwrap();
        let remote = remotecommand::dial(&format!("http://{backend}/exec?{query}"), options).await.unwrap();
        let outcome = remotecommand::relay(session, remote).await.unwrap();
        assert_eq!(outcome.exit_code(), Some(3));
    });
    response
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

/// The runtime, and a proxy to it with a relay beside.
async fn servers() -> (SocketAddr, SocketAddr) {
    let plain = any(|request: Request| async move {
        let bytes = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
        format!("plain {}", bytes.len())
    });
    let backend =
        Router::new().route("/exec", any(exec)).route("/forward", any(forward)).route("/plain", plain);
    let backend = serve(backend).await;
    let front = Router::new().route("/node", any(relayed)).fallback(any(pass_on)).with_state(backend);
    (backend, serve(front).await)
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("in time")
}

#[tokio::test]
async fn exec_over_spdy_direct_proxied_and_relayed() {
    let (backend, front) = servers().await;
    for base in [format!("{backend}/exec"), format!("{front}/exec"), format!("{front}/node")] {
        let options = Options { stdin: true, stdout: true, stderr: true, tty: false };
        let url = format!("http://{base}?stdin=1&stdout=1&stderr=1");
        let mut remote = in_time(remotecommand::dial(&url, options)).await.unwrap();
        let mut stdin = remote.stdin.take().unwrap();
        let large = "abc".repeat(300_000);
        let write = async {
            stdin.write_all(large.as_bytes()).await.unwrap();
            stdin.shutdown().await.unwrap();
        };
        let (mut out, mut err) = (String::new(), String::new());
        let (mut stdout, mut stderr) = (remote.stdout.take().unwrap(), remote.stderr.take().unwrap());
        let all = async {
            tokio::join!(
                write,
                stdout.read_to_string(&mut out),
                stderr.read_to_string(&mut err),
                remote.outcome()
            )
            .3
        };
        let outcome = in_time(all).await;
        assert_eq!((outcome.exit_code(), err.as_str()), (Some(3), "warning\n"), "{base}");
        assert!(out == format!("hello\n{}", large.to_uppercase()), "{base}: {} bytes", out.len());
    }
}

/// A command that ends without reading what is being sent to it: its outcome must arrive all the same.
#[tokio::test]
async fn the_outcome_arrives_although_input_is_not_read() {
    let (backend, front) = servers().await;
    let options = Options { stdin: true, stdout: true, stderr: false, tty: false };
    for base in [format!("{backend}/exec"), format!("{front}/exec"), format!("{front}/node")] {
        for _ in 0..10 {
            let url = format!("http://{base}?stdin=1&stdout=1&deaf=1");
            let mut remote = in_time(remotecommand::dial(&url, options)).await.unwrap();
            let (mut stdin, mut stdout) = (remote.stdin.take().unwrap(), remote.stdout.take().unwrap());
            let write = tokio::spawn(async move {
                let chunk = vec![b'x'; 1 << 20];
                for _ in 0..8 {
                    if stdin.write_all(&chunk).await.is_err() {
                        return;
                    }
                }
            });
            let mut out = String::new();
            in_time(stdout.read_to_string(&mut out)).await.unwrap();
            let outcome = in_time(remote.outcome()).await;
            assert_eq!((out.as_str(), outcome.exit_code()), ("hello\n", Some(3)), "{base}");
            in_time(write).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_terminal_is_resized() {
    let (_, front) = servers().await;
    let options = Options { stdin: true, stdout: true, stderr: false, tty: true };
    let url = format!("http://{front}/node?stdin=1&stdout=1&tty=1");
    let mut remote = in_time(remotecommand::dial(&url, options)).await.unwrap();
    remote.resize.as_mut().unwrap().send(TerminalSize { width: 120, height: 40 }).await.unwrap();
    remote.stdin.take().unwrap().shutdown().await.unwrap();
    let mut out = String::new();
    in_time(remote.stdout.take().unwrap().read_to_string(&mut out)).await.unwrap();
    assert_eq!(out, "hello\n120x40\n");
}

async fn connect(
    address: SocketAddr,
    path: &str,
    protocol: Option<&str>,
) -> Result<(tokio_tungstenite::WebSocketStream<TcpStream>, Option<String>), String> {
    let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
    if let Some(protocol) = protocol {
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    }
    let io = TcpStream::connect(address).await.unwrap();
    let (socket, response) =
        in_time(tokio_tungstenite::client_async(request, io)).await.map_err(|error| error.to_string())?;
    let chosen = response.headers().get("sec-websocket-protocol").map(|v| v.to_str().unwrap().to_string());
    Ok((socket, chosen))
}

/// All messages until the server says goodbye, joined by channel.
async fn messages(socket: &mut tokio_tungstenite::WebSocketStream<TcpStream>) -> Vec<(u8, String)> {
    let mut channels = std::collections::BTreeMap::<u8, Vec<u8>>::new();
    while let Some(message) = in_time(socket.next()).await {
        let bytes = match message.unwrap() {
            Message::Binary(bytes) => bytes.to_vec(),
            Message::Text(text) => text.as_bytes().to_vec(),
            Message::Close(frame) => {
                assert_eq!(u16::from(frame.unwrap().code), 1000);
                continue;
            }
            _ => continue,
        };
        channels.entry(bytes[0]).or_default().extend(&bytes[1..]);
    }
    channels.into_iter().map(|(channel, text)| (channel, String::from_utf8(text).unwrap())).collect()
}

#[tokio::test]
async fn exec_over_websocket_in_every_version() {
    let (backend, front) = servers().await;
    let path = "/exec?stdin=1&stdout=1&stderr=1";
    for address in [backend, front] {
        let offer = "v6.channel.k8s.io, v5.channel.k8s.io, v4.channel.k8s.io";
        let (mut socket, chosen) = connect(address, path, Some(offer)).await.unwrap();
        assert_eq!(chosen.as_deref(), Some("v5.channel.k8s.io"));
        socket.send(Message::binary(&b"\x00hi there"[..])).await.unwrap();
        socket.send(Message::Ping("x".into())).await.unwrap();
        socket.send(Message::binary(&b"\xff\x00"[..])).await.unwrap();
        let got = messages(&mut socket).await;
        assert_eq!(got[0], (1, "hello\nHI THERE".to_string()));
        assert_eq!(got[1], (2, "warning\n".to_string()));
        let status: serde_json::Value = serde_json::from_str(&got[2].1).unwrap();
        assert_eq!((got[2].0, status["details"]["causes"][0]["message"].as_str()), (3, Some("3")));
    }
    let path = "/exec?stdout=1";
    let message = "command terminated with non-zero exit code: exit status 3";
    for protocol in [None, Some("channel.k8s.io")] {
        let (mut socket, chosen) = connect(backend, path, protocol).await.unwrap();
        assert_eq!(chosen.as_deref(), protocol);
        assert_eq!(messages(&mut socket).await, [(1, "hello\n".to_string()), (3, message.to_string())]);
    }
    let (mut socket, _) = connect(backend, path, Some("v4.base64.channel.k8s.io")).await.unwrap();
    let got = messages(&mut socket).await;
    assert_eq!(got[0], (b'1', "aGVsbG8K".to_string()));
    assert_eq!(got[1].0, b'3');
    let refused = connect(backend, path, Some("v9.channel.k8s.io")).await.unwrap_err();
    assert!(refused.contains("403"), "{refused}");
}

#[tokio::test]
async fn refusals_say_why() {
    let (backend, front) = servers().await;
    for (address, path, headers, want) in [
        (backend, "/exec?tty=1", "", "HTTP/1.1 400"),
        (backend, "/exec?stdout=1", "", "HTTP/1.1 400"),
        (front, "/exec?stdout=1", "Connection: upgrade\r\nUpgrade: SPDY/3.1\r\n", "HTTP/1.1 400"),
        (
            front,
            "/exec?stdout=1",
            "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v9\r\n",
            "HTTP/1.1 403",
        ),
        (backend, "/forward", "Connection: Upgrade\r\nUpgrade: websocket\r\n", "HTTP/1.1 400"),
    ] {
        let mut io = TcpStream::connect(address).await.unwrap();
        let text = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n{headers}\r\n");
        io.write_all(text.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        in_time(io.read_exact(&mut answer)).await.unwrap();
        assert_eq!(std::str::from_utf8(&answer).unwrap(), want, "{path} {headers}");
    }
    let url = format!("http://{backend}/nowhere");
    let options = Options { stdout: true, ..Options::default() };
    let error = remotecommand::dial(&url, options).await.err().unwrap().to_string();
    assert_eq!(error, format!("streaming server {url}: answered 404: "));
}

#[tokio::test]
async fn the_proxy_passes_plain_requests() {
    let (_, front) = servers().await;
    let mut io = TcpStream::connect(front).await.unwrap();
    let text = "POST /plain HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\n12345";
    io.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    in_time(io.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("plain 5"), "{answer}");
}

/// Two connections over one port-forward, one to a port that is closed.
async fn use_forward(connection: spdy::Connection) {
    let open = async |kind: &str, port: &str, id: &str| {
        let headers = Headers::new([("streamType", kind), ("port", port), ("requestID", id)]);
        connection.open(headers).await.unwrap()
    };
    let mut error = open("error", "7", "0").await;
    error.shutdown().await.unwrap();
    let (mut from, mut to) = tokio::io::split(open("data", "7", "0").await);
    let sent = vec![42; 500_000];
    let mut got = Vec::new();
    let write = async {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let (_, read) = in_time(async { tokio::join!(write, from.read_to_end(&mut got)) }).await;
    read.unwrap();
    assert!(got == sent);
    let mut text = String::new();
    in_time(error.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "");
    let mut error = open("error", "9", "1").await;
    let mut data = open("data", "9", "1").await;
    in_time(error.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "error forwarding port 9 to pod p, uid u: connection refused");
    assert_eq!(in_time(data.read_u8()).await.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    connection.close().await;
}

#[tokio::test]
async fn forwards_over_a_tunnel_and_over_spdy() {
    let (backend, front) = servers().await;
    for address in [backend, front] {
        let (socket, chosen) =
            connect(address, "/forward", Some("SPDY/3.1+portforward.k8s.io")).await.unwrap();
        assert_eq!(chosen.as_deref(), Some("SPDY/3.1+portforward.k8s.io"));
        let (connection, _incoming) = spdy::client(websocket::tunnel_client(socket.into_inner()).await);
        use_forward(connection).await;

        let mut io = TcpStream::connect(address).await.unwrap();
        let text = "POST /forward HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
                    X-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n";
        io.write_all(text.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(in_time(io.read_u8()).await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101"));
        let (connection, _incoming) = spdy::client(io);
        use_forward(connection).await;
    }
}

#[tokio::test]
async fn forwards_over_channels() {
    let (backend, _) = servers().await;
    let (mut socket, _) =
        connect(backend, "/forward?ports=7&ports=9", Some("v4.channel.k8s.io")).await.unwrap();
    socket.send(Message::binary(&b"\x00ping"[..])).await.unwrap();
    let mut seen = std::collections::BTreeMap::<u8, Vec<u8>>::new();
    while seen.get(&0).is_none_or(|data| data.len() < 6) || seen.get(&3).is_none_or(|data| data.len() < 10) {
        let message = in_time(socket.next()).await.unwrap().unwrap();
        let Message::Binary(bytes) = message else {
            continue;
        };
        seen.entry(bytes[0]).or_default().extend(&bytes[1..]);
    }
    assert_eq!((seen[&0].as_slice(), seen[&1].as_slice()), (&b"\x07\x00ping"[..], &b"\x07\x00"[..]));
    let text = b"\x09\x00error forwarding port 9 to pod p, uid u: connection refused";
    assert_eq!((seen[&2].as_slice(), seen[&3].as_slice()), (&b"\x09\x00"[..], &text[..]));
}
