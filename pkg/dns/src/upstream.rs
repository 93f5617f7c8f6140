//! Questions that are not ours go, byte for byte, to the node's resolvers. Entry point: [`Upstream::ask`].

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// How long one resolver may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many resolvers of the file are used; the C library uses three as well.
const MOST: usize = 3;
/// systemd's local stub, and where it writes the resolvers behind it.
const STUB: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// The resolvers in a resolv.conf, without those that are ourselves.
pub fn nameservers(text: &str, own: &[IpAddr]) -> Vec<IpAddr> {
    let lines = text.lines().map(|l| l.split(['#', ';']).next().unwrap_or(""));
    let servers = lines.filter_map(|l| {
        let mut words = l.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    // A zone ("fe80::1%eth0") cannot be told from here.
    let mut out: Vec<IpAddr> = Vec::new();
    for a in servers.filter_map(|t| t.parse::<IpAddr>().ok()) {
        let ours = own.contains(&a) || (own.iter().any(IpAddr::is_unspecified) && a.is_loopback());
        if !ours && !a.is_unspecified() && !out.contains(&a) {
            out.push(a);
        }
    }
    out.truncate(MOST);
    out
}

#[derive(Debug, Default)]
struct Known {
    changed: Option<SystemTime>,
    servers: Vec<IpAddr>,
}

/// The node's resolvers.
#[derive(Debug)]
pub struct Upstream {
    file: PathBuf,
    own: Vec<IpAddr>,
    known: Mutex<Known>,
    port: u16,
}

/// How a question came, and so goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

impl Upstream {
    /// Resolvers of the file; it is read again when it changes. `own` are addresses that we listen on.
    pub fn new(file: PathBuf, own: Vec<IpAddr>) -> Self {
        Self { file, own, known: Mutex::new(Known::default()), port: 53 }
    }

    /// The same with another port, for tests.
    #[cfg(test)]
    pub(crate) fn on_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The resolvers as the file is now.
    pub fn servers(&self) -> Vec<IpAddr> {
        let changed = |p: &Path| std::fs::metadata(p).and_then(|m| m.modified()).ok();
        let now = changed(&self.file).max(changed(Path::new(BEHIND_STUB)));
        let mut known = self.known.lock();
        if known.changed != now || known.changed.is_none() {
            let read = |p: &Path| std::fs::read_to_string(p).unwrap_or_default();
            let mut servers = nameservers(&read(&self.file), &self.own);
            if servers.contains(&STUB) {
                let behind = nameservers(&read(Path::new(BEHIND_STUB)), &self.own);
                let others: Vec<IpAddr> = behind.into_iter().filter(|a| *a != STUB).collect();
                if !others.is_empty() {
                    servers = others;
                }
            }
            *known = Known { changed: now, servers };
        }
        known.servers.clone()
    }

    /// The first resolver's answer, with the question's own id; `None` if there is none.
    pub(crate) async fn ask(&self, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let id: [u8; 2] = question.get(..2)?.try_into().ok()?;
        for server in self.servers() {
            let to = SocketAddr::new(server, self.port);
            let exchange = async {
                match transport {
                    Transport::Udp => udp(to, question).await,
                    Transport::Tcp => tcp(to, question).await,
                }
            };
            match tokio::time::timeout(PATIENCE, exchange).await {
                Ok(Ok(mut reply)) => {
                    if let Some(place) = reply.get_mut(..2) {
                        place.copy_from_slice(&id);
                    }
                    return Some(reply);
                }
                Ok(Err(e)) => tracing::debug!(resolver = %to, error = %e, "resolver did not answer"),
                Err(_) => tracing::debug!(resolver = %to, "resolver did not answer in time"),
            }
        }
        None
    }
}

/// The question with an id of our own: guessing it must not be as easy as knowing the client's.
fn renumbered(question: &[u8]) -> (Vec<u8>, [u8; 2]) {
    let id: [u8; 2] = rand::random();
    let mut out = question.to_vec();
    if let Some(place) = out.get_mut(..2) {
        place.copy_from_slice(&id);
    }
    (out, id)
}

/// The question section's bytes: what an answer must repeat.
fn question_section(message: &[u8]) -> Option<&[u8]> {
    let mut at = 12;
    loop {
        let len = usize::from(*message.get(at)?);
        if len == 0 {
            return message.get(12..at + 5);
        }
        if len > 63 {
            return None;
        }
        at += len + 1;
    }
}

fn belongs(reply: &[u8], question: &[u8], id: [u8; 2]) -> bool {
    let same_question = match (question_section(reply), question_section(question)) {
        (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
        _ => false,
    };
    reply.get(..2) == Some(&id) && reply.get(2).is_some_and(|b| b & 0x80 != 0) && same_question
}

async fn udp(to: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: IpAddr =
        if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(to).await?;
    let (bytes, id) = renumbered(question);
    socket.send(&bytes).await?;
    let mut buf = vec![0; 65535];
    loop {
        let n = socket.recv(&mut buf).await?;
        if let Some(reply) = buf.get(..n).filter(|r| belongs(r, question, id)) {
            return Ok(reply.to_vec());
        }
    }
}

async fn tcp(to: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(to).await?;
    let (bytes, id) = renumbered(question);
    let length = u16::try_from(bytes.len()).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(bytes);
    stream.write_all(&frame).await?;
    let length = stream.read_u16().await?;
    let mut reply = vec![0; usize::from(length)];
    stream.read_exact(&mut reply).await?;
    if belongs(&reply, question, id) { Ok(reply) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_without_ourselves() {
        let own = ["10.43.0.10".parse().unwrap()];
        for (text, want) in [
            ("nameserver 1.1.1.1\nnameserver 10.43.0.10 # us\nsearch x\n", "1.1.1.1"),
            ("; nameserver 9.9.9.9\nnameserver\t8.8.8.8\nnameserver 8.8.8.8\n", "8.8.8.8"),
            (
                "nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4\n",
                "1.1.1.1 1.1.1.2 1.1.1.3",
            ),
            ("nameserver fe80::1%eth0\nnameserver 0.0.0.0\nnameserver 127.0.0.1\n", "127.0.0.1"),
            ("", ""),
        ] {
            let got: Vec<String> = nameservers(text, &own).iter().map(ToString::to_string).collect();
            assert_eq!(got.join(" "), want, "{text:?}");
        }
        assert!(nameservers("nameserver 127.0.0.1", &["0.0.0.0".parse().unwrap()]).is_empty());
    }
}
