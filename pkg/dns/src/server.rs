//! UDP and TCP. Entry points: [`bind`], [`serve`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use parking_lot::RwLock;
use rand::seq::SliceRandom;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::answer::{Answer, Outcome, answer};
use crate::index::Index;
use crate::upstream::{Transport, Upstream};

/// Questions that may wait for resolvers at one time; more are not taken up (UDP) or wait (TCP).
const FORWARDED_MOST: usize = 1024;
/// TCP connections at one time.
const CONNECTIONS_MOST: usize = 256;
/// A TCP connection without a question is closed after this time.
const IDLE: Duration = Duration::from_secs(10);
/// Largest UDP answer, whatever the client offers: what passes unfragmented nearly everywhere.
const UDP_MOST: u16 = 1232;
/// Largest UDP answer for a client that says nothing.
const UDP_PLAIN: u16 = 512;

/// Bound sockets.
#[derive(Debug)]
pub struct Listeners {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

impl Listeners {
    /// Local addresses of the UDP sockets.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.udp.iter().filter_map(|s| s.local_addr().ok()).collect()
    }
}

/// Binds UDP and TCP on every address.
pub async fn bind(addresses: &[SocketAddr]) -> Result<Listeners, Error> {
    let fail = |address, transport| move |source| Error::Listen { address, transport, source };
    let mut out = Listeners { udp: Vec::new(), tcp: Vec::new() };
    for &address in addresses {
        let tcp = TcpListener::bind(address).await.map_err(fail(address, "TCP"))?;
        // With port 0 both transports shall have the same one.
        let same = tcp.local_addr().unwrap_or(address);
        out.udp.push(UdpSocket::bind(same).await.map_err(fail(same, "UDP"))?);
        out.tcp.push(tcp);
    }
    Ok(out)
}

struct Shared {
    index: Arc<RwLock<Index>>,
    upstream: Arc<Upstream>,
    forwarded: Arc<Semaphore>,
}

/// Answers until shutdown.
pub async fn serve(
    listeners: Listeners,
    index: Arc<RwLock<Index>>,
    upstream: Arc<Upstream>,
    shutdown: CancellationToken,
) {
    let shared = Arc::new(Shared { index, upstream, forwarded: Arc::new(Semaphore::new(FORWARDED_MOST)) });
    let mut tasks = JoinSet::new();
    for socket in listeners.udp {
        tasks.spawn(serve_udp(Arc::new(socket), shared.clone(), shutdown.clone()));
    }
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MOST));
    for listener in listeners.tcp {
        tasks.spawn(serve_tcp(listener, shared.clone(), connections.clone(), shutdown.clone()));
    }
    while tasks.join_next().await.is_some() {}
}

async fn serve_udp(socket: Arc<UdpSocket>, shared: Arc<Shared>, shutdown: CancellationToken) {
    let mut buf = vec![0; 65535];
    loop {
        let received = tokio::select! {
            () = shutdown.cancelled() => return,
            r = socket.recv_from(&mut buf) => r,
        };
        let (n, peer) = match received {
            Ok(r) => r,
            Err(e) => {
                // A refused answer to an earlier client comes back here; nothing of ours is wrong.
                tracing::debug!(error = %e, "receive");
                continue;
            }
        };
        let bytes = buf.get(..n).unwrap_or_default();
        match decide(&shared, bytes, Transport::Udp) {
            Step::Silent => {}
            Step::Reply(reply) => drop(socket.send_to(&reply, peer).await),
            Step::Later(later) => {
                let Ok(permit) = shared.forwarded.clone().try_acquire_owned() else {
                    tracing::warn!(
                        limit = FORWARDED_MOST,
                        "question not taken up: too many wait for resolvers"
                    );
                    continue;
                };
                let (socket, shared, question) = (socket.clone(), shared.clone(), bytes.to_vec());
                tokio::spawn(async move {
                    if let Some(reply) = finish(&shared, &question, later, Transport::Udp).await {
                        drop(socket.send_to(&reply, peer).await);
                    }
                    drop(permit);
                });
            }
        }
    }
}

async fn serve_tcp(
    listener: TcpListener,
    shared: Arc<Shared>,
    connections: Arc<Semaphore>,
    shutdown: CancellationToken,
) {
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            r = listener.accept() => r,
        };
        match accepted {
            Ok((stream, _)) => {
                let (shared, shutdown) = (shared.clone(), shutdown.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = shutdown.cancelled() => {}
                        _ = converse(stream, &shared) => {}
                    }
                    drop(permit);
                });
            }
            Err(e) => {
                tracing::warn!(error = %e, "accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One connection: questions one after the other.
async fn converse(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    loop {
        let read = async {
            let length = stream.read_u16().await?;
            let mut question = vec![0; usize::from(length)];
            stream.read_exact(&mut question).await?;
            std::io::Result::Ok(question)
        };
        let Ok(question) = tokio::time::timeout(IDLE, read).await else { return Ok(()) };
        let question = question?;
        let reply = match decide(shared, &question, Transport::Tcp) {
            Step::Silent => return Ok(()),
            Step::Reply(reply) => Some(reply),
            Step::Later(later) => {
                let _permit = shared.forwarded.acquire().await;
                finish(shared, &question, later, Transport::Tcp).await
            }
        };
        let Some(reply) = reply else { return Ok(()) };
        let length = u16::try_from(reply.len()).map_err(|_| std::io::ErrorKind::InvalidData)?;
        let mut frame = length.to_be_bytes().to_vec();
        frame.extend(reply);
        match tokio::time::timeout(IDLE, stream.write_all(&frame)).await {
            Ok(written) => written?,
            Err(_) => return Ok(()),
        }
    }
}

/// What is left to do.
enum Step {
    /// Not a question: say nothing.
    Silent,
    /// The reply.
    Reply(Vec<u8>),
    /// Resolvers must be asked.
    Later(Box<Later>),
}

struct Later {
    request: Message,
    /// Our part of the answer and the name to go on with; none if all is to be forwarded.
    begun: Option<(Answer, Name)>,
}

fn decide(shared: &Shared, bytes: &[u8], transport: Transport) -> Step {
    let request = match Message::from_vec(bytes) {
        Ok(m) => m,
        Err(_) => return malformed(bytes),
    };
    if request.metadata.message_type == MessageType::Response {
        return Step::Silent;
    }
    let failure = |code| {
        encode(&request, code, Answer::default(), Authority::No, transport).map_or(Step::Silent, Step::Reply)
    };
    if request.metadata.op_code != OpCode::Query {
        return failure(ResponseCode::NotImp);
    }
    let [query] = request.queries.as_slice() else { return failure(ResponseCode::FormErr) };
    let outcome = answer(&shared.index.read(), query);
    match outcome {
        Outcome::NotReady => failure(ResponseCode::ServFail),
        Outcome::Forward => Step::Later(Box::new(Later { request, begun: None })),
        Outcome::Authoritative(code, mut a) => match a.continue_with.take() {
            Some(name) => Step::Later(Box::new(Later { request, begun: Some((*a, name)) })),
            None => encode(&request, code, *a, Authority::Yes, transport).map_or(Step::Silent, Step::Reply),
        },
    }
}

/// A reply to what could not be read, if at least the header could.
fn malformed(bytes: &[u8]) -> Step {
    match bytes.get(..4) {
        Some(&[a, b, flags, _]) if bytes.len() >= 12 && flags & 0x80 == 0 => {
            let id = u16::from_be_bytes([a, b]);
            let reply = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
            reply.to_vec().map_or(Step::Silent, Step::Reply)
        }
        _ => Step::Silent,
    }
}

async fn finish(
    shared: &Shared,
    question: &[u8],
    later: Box<Later>,
    transport: Transport,
) -> Option<Vec<u8>> {
    let Later { request, begun } = *later;
    let Some((mut a, name)) = begun else {
        let reply = shared.upstream.ask(question, transport).await;
        return reply.or_else(|| {
            encode(&request, ResponseCode::ServFail, Answer::default(), Authority::No, transport)
        });
    };
    let kind = request.queries.first().map_or(RecordType::A, Query::query_type);
    let mut onward = Message::query();
    onward.metadata.id = request.metadata.id;
    onward.metadata.recursion_desired = true;
    onward.add_query(Query::query(name, kind));
    if let Ok(bytes) = onward.to_vec() {
        // Without an answer the alias alone is still true.
        let mut reply = shared.upstream.ask(&bytes, Transport::Udp).await;
        if reply.as_ref().and_then(|r| r.get(2)).is_some_and(|flags| flags & 2 != 0) {
            reply = shared.upstream.ask(&bytes, Transport::Tcp).await;
        }
        if let Some(reply) = reply.and_then(|r| Message::from_vec(&r).ok()) {
            a.answers.extend(reply.answers.iter().cloned());
        }
    }
    encode(&request, ResponseCode::NoError, a, Authority::Yes, transport)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Authority {
    Yes,
    No,
}

fn encode(
    request: &Message,
    code: ResponseCode,
    mut a: Answer,
    authority: Authority,
    transport: Transport,
) -> Option<Vec<u8>> {
    let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
    reply.metadata.authoritative = authority == Authority::Yes;
    reply.metadata.recursion_desired = request.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    reply.add_queries(request.queries.iter().cloned());
    // Clients take the first address: let it be another one each time. An alias stays before what it leads to.
    let aliases = a.answers.iter().take_while(|r| r.record_type() == RecordType::CNAME).count();
    if let Some(rest) = a.answers.get_mut(aliases..) {
        rest.shuffle(&mut rand::rng());
    }
    reply.answers = a.answers;
    reply.authorities = a.authority;
    reply.additionals = a.additional;
    let mut limit = UDP_PLAIN;
    if let Some(edns) = &request.edns {
        limit = edns.max_payload().clamp(UDP_PLAIN, UDP_MOST);
        let mut own = Edns::new();
        own.set_max_payload(UDP_MOST);
        reply.set_edns(own);
    }
    let limit = if transport == Transport::Tcp { usize::from(u16::MAX) } else { usize::from(limit) };
    let bytes = reply.to_vec().ok()?;
    if bytes.len() <= limit {
        return Some(bytes);
    }
    // What is only helpful goes first.
    reply.additionals.clear();
    match reply.to_vec().ok()? {
        shorter if shorter.len() <= limit => Some(shorter),
        _ => reply.truncate().to_vec().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    async fn start(
        resolv_conf: &str,
        upstream_port: u16,
    ) -> (SocketAddr, CancellationToken, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("resolv.conf");
        std::fs::write(&file, resolv_conf).unwrap();
        let mut index = Index::new("cluster.local").unwrap();
        index.complete = true;
        let endpoints: Vec<_> = (0..200).map(|n| json!({"addresses": [format!("10.42.0.{n}")]})).collect();
        for (name, spec) in [
            ("web", json!({"clusterIP": "10.43.0.7"})),
            ("big", json!({"clusterIP": "None"})),
            ("far", json!({"type": "ExternalName", "externalName": "example.com"})),
        ] {
            index.put_service(
                &serde_json::from_value(json!({"metadata": {"name": name, "namespace": "d"}, "spec": spec}))
                    .unwrap(),
            );
        }
        let slice = json!({"addressType": "IPv4", "endpoints": endpoints,
            "metadata": {"name": "big", "namespace": "d", "labels": {"kubernetes.io/service-name": "big"}}});
        index.put_slice(&serde_json::from_value(slice).unwrap());
        let listeners = bind(&["127.0.0.1:0".parse().unwrap()]).await.unwrap();
        let address = listeners.addresses()[0];
        let shutdown = CancellationToken::new();
        let upstream = Upstream::new(file, vec![]).on_port(upstream_port);
        tokio::spawn(serve(listeners, Arc::new(RwLock::new(index)), Arc::new(upstream), shutdown.clone()));
        (address, shutdown, dir)
    }

    fn question(name: &str) -> Message {
        let mut m = Message::query();
        m.metadata.id = 4711;
        m.metadata.recursion_desired = true;
        m.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        m
    }

    async fn udp(to: SocketAddr, bytes: &[u8]) -> Message {
        let s = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        s.send_to(bytes, to).await.unwrap();
        let mut buf = [0; 4096];
        let n = tokio::time::timeout(Duration::from_secs(9), s.recv(&mut buf)).await.unwrap().unwrap();
        Message::from_vec(&buf[..n]).unwrap()
    }

    async fn tcp(to: SocketAddr, bytes: &[u8]) -> Message {
        let mut s = TcpStream::connect(to).await.unwrap();
        s.write_u16(bytes.len() as u16).await.unwrap();
        s.write_all(bytes).await.unwrap();
        let n = s.read_u16().await.unwrap();
        let mut buf = vec![0; n.into()];
        s.read_exact(&mut buf).await.unwrap();
        Message::from_vec(&buf).unwrap()
    }

    /// A resolver that knows example.com and nothing else.
    async fn resolver() -> u16 {
        let listeners = bind(&["127.0.0.1:0".parse().unwrap()]).await.unwrap();
        let port = listeners.addresses()[0].port();
        let mut known = Index::new("com").unwrap();
        known.complete = true;
        tokio::spawn(async move {
            let [socket] = listeners.udp.try_into().unwrap();
            let mut buf = [0; 4096];
            loop {
                let (n, peer) = socket.recv_from(&mut buf).await.unwrap();
                let q = Message::from_vec(&buf[..n]).unwrap();
                let name = q.queries[0].name().clone();
                let data = hickory_proto::rr::RData::A("192.0.2.1".parse().unwrap());
                let record = hickory_proto::rr::Record::from_rdata(name, 60, data);
                let a = Answer { answers: vec![record], ..Answer::default() };
                let reply = encode(&q, ResponseCode::NoError, a, Authority::No, Transport::Udp).unwrap();
                socket.send_to(&reply, peer).await.unwrap();
            }
        });
        port
    }

    #[tokio::test]
    async fn answers_over_udp_and_tcp() {
        let (at, shutdown, _dir) = start("", 53).await;
        let q = question("web.d.svc.cluster.local.").to_vec().unwrap();
        for m in [udp(at, &q).await, tcp(at, &q).await] {
            assert_eq!((m.metadata.id, m.answers.len(), m.metadata.authoritative), (4711, 1, true));
        }
        let big = question("big.d.svc.cluster.local.").to_vec().unwrap();
        let m = udp(at, &big).await;
        assert!(m.metadata.truncation && m.answers.is_empty());
        let m = tcp(at, &big).await;
        assert!(!m.metadata.truncation && m.answers.len() == 200);
        let none = udp(at, &question("example.com.").to_vec().unwrap()).await;
        assert_eq!(none.metadata.response_code, ResponseCode::ServFail, "no resolver");
        let mut broken = q.clone();
        broken.truncate(20);
        assert_eq!(udp(at, &broken).await.metadata.response_code, ResponseCode::FormErr);
        let mut update = question("web.d.svc.cluster.local.");
        update.metadata.op_code = OpCode::Notify;
        assert_eq!(udp(at, &update.to_vec().unwrap()).await.metadata.response_code, ResponseCode::NotImp);
        shutdown.cancel();
    }

    #[tokio::test]
    async fn forwards_and_follows_external_names() {
        let (at, shutdown, _dir) = start("nameserver 127.0.0.1\n", resolver().await).await;
        let m = udp(at, &question("example.com.").to_vec().unwrap()).await;
        assert_eq!((m.metadata.id, m.answers[0].ttl, m.metadata.authoritative), (4711, 60, false));
        let m = udp(at, &question("far.d.svc.cluster.local.").to_vec().unwrap()).await;
        let types: Vec<RecordType> = m.answers.iter().map(|r| r.record_type()).collect();
        assert_eq!(types, [RecordType::CNAME, RecordType::A]);
        shutdown.cancel();
    }
}
