//! The dialling side, for a container runtime's streaming server.

use super::{Error, Options, Outcome, TerminalSize};
use crate::io::Prefixed;
use crate::spdy::{self, Headers};
use crate::{BoxIo, BoxRead, BoxWrite, Io};
use bytes::{Bytes, BytesMut};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

const PROTOCOL: &str = "v4.channel.k8s.io";
/// Connecting, the hand-shake and the opening of streams may each take this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// The response's head may not be longer.
const MAX_HEAD: usize = 64 << 10;

/// A running command's streams.
pub struct Remote {
    /// The command's input; shut it down to end it.
    pub stdin: Option<BoxWrite>,
    /// Output.
    pub stdout: Option<BoxRead>,
    /// Error output.
    pub stderr: Option<BoxRead>,
    /// Takes sizes of the terminal.
    pub resize: Option<Resizer>,
    error: BoxRead,
    connection: spdy::Connection,
}

/// Sends sizes of a terminal.
pub struct Resizer(BoxWrite);

impl Resizer {
    /// Sends one.
    pub async fn send(&mut self, size: TerminalSize) -> std::io::Result<()> {
        let mut text = serde_json::to_vec(&size)?;
        text.push(b'\n');
        self.0.write_all(&text).await?;
        self.0.flush().await
    }
}

/// Connects to `http://host:port/path`, as CRI's Exec and Attach give it.
pub async fn dial(url: &str, options: Options) -> Result<Remote, Error> {
    let failed = |detail: String| Error::Server { server: url.to_string(), detail };
    let uri: http::Uri = url.parse().map_err(|error: http::uri::InvalidUri| failed(error.to_string()))?;
    let (Some("http"), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return Err(failed("only http://host:port/path is supported".into()));
    };
    let address = (host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(80));
    let connecting = tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await;
    let io =
        connecting.map_err(|_| failed("connecting timed out".into()))?.map_err(|e| failed(e.to_string()))?;
    io.set_nodelay(true).map_err(|error| failed(error.to_string()))?;
    dial_over(io, &uri, options).await
}

/// As [`dial`], over a connection that exists.
pub async fn dial_over(io: impl Io + 'static, uri: &http::Uri, options: Options) -> Result<Remote, Error> {
    let work = async {
        let io = handshake(Box::new(io), uri).await?;
        open(io, options).await.map_err(|error| error.to_string())
    };
    let done = tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err("timed out".into()));
    done.map_err(|detail| Error::Server { server: uri.to_string(), detail })
}

async fn handshake(mut io: BoxIo, uri: &http::Uri) -> Result<Prefixed<BoxIo>, String> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map_or("localhost", |authority| authority.as_str());
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: {PROTOCOL}\r\n\r\n"
    );
    io.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    io.flush().await.map_err(|error| error.to_string())?;
    let mut head = BytesMut::new();
    loop {
        if io.read_buf(&mut head).await.map_err(|error| error.to_string())? == 0 {
            return Err("closed the connection instead of answering".into());
        }
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut fields);
        match response
            .parse(&head)
            .map_err(|error| format!("answered something that is not HTTP: {error}"))?
        {
            httparse::Status::Partial if head.len() > MAX_HEAD => {
                return Err("answered a head without end".into());
            }
            httparse::Status::Partial => {}
            httparse::Status::Complete(length) => {
                let code = response.code.unwrap_or(0);
                let field = |name: &str| {
                    let found = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
                    found.map(|field| String::from_utf8_lossy(field.value).into_owned())
                };
                let chosen = field("x-stream-protocol-version");
                let rest = head.split_off(length).freeze();
                if code != 101 {
                    return Err(format!("answered {code}: {}", excerpt(io, rest).await));
                }
                if chosen.as_deref() != Some(PROTOCOL) {
                    return Err(format!("chose protocol {chosen:?}, we offered {PROTOCOL:?}"));
                }
                return Ok(Prefixed::new(rest, io));
            }
        }
    }
}

/// The beginning of an error's body.
async fn excerpt(mut io: BoxIo, rest: Bytes) -> String {
    let mut body = BytesMut::from(&rest[..]);
    let reading = async { while body.len() < 1024 && io.read_buf(&mut body).await.is_ok_and(|n| n > 0) {} };
    let _ = tokio::time::timeout(Duration::from_millis(200), reading).await;
    String::from_utf8_lossy(&body[..body.len().min(1024)]).trim().to_string()
}

async fn open(io: Prefixed<BoxIo>, options: Options) -> Result<Remote, spdy::Error> {
    let (connection, _) = spdy::client(io);
    let open = async |wanted: bool, kind: &str| match wanted {
        true => connection.open(Headers::new([("streamType", kind)])).await.map(Some),
        false => Ok(None),
    };
    let mut error = connection.open(Headers::new([("streamType", "error")])).await?;
    // We send nothing on it.
    let _ = error.shutdown().await;
    let stdin = open(options.stdin, "stdin").await?;
    let stdout = open(options.stdout, "stdout").await?;
    let stderr = open(options.stderr, "stderr").await?;
    let resize = open(options.tty, "resize").await?;
    Ok(Remote {
        stdin: stdin.map(|stream| Box::new(stream) as BoxWrite),
        stdout: stdout.map(|stream| Box::new(stream) as BoxRead),
        stderr: stderr.map(|stream| Box::new(stream) as BoxRead),
        resize: resize.map(|stream| Resizer(Box::new(stream))),
        error: Box::new(error),
        connection,
    })
}

impl Remote {
    /// Waits for the command to end. Read the output meanwhile, or it will not.
    pub async fn outcome(&mut self) -> Outcome {
        let mut text = Vec::new();
        if let Err(error) = (&mut self.error).take(1 << 20).read_to_end(&mut text).await {
            return Outcome::failure(&format!("reading the command's outcome: {error}"));
        }
        if text.is_empty() {
            return Outcome::failure(
                "the connection to the container runtime ended before the command's outcome",
            );
        }
        match serde_json::from_slice(&text) {
            Ok(status) => Outcome::from_status(status),
            Err(_) => Outcome::failure(String::from_utf8_lossy(&text).trim()),
        }
    }

    /// Ends when the other side has gone.
    pub fn closed(&self) -> CancellationToken {
        self.connection.token()
    }
}
