//! The agent's own load balancer: a loopback port behind which are all API servers, tried in order of health.
//! Entry point: [`Balancer::serve`]. It passes bytes on, so TLS goes from client to server.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// How long a server may take to accept.
const CONNECT: Duration = Duration::from_secs(3);
/// A server that failed is tried last for this long.
const SHUN: Duration = Duration::from_secs(10);

/// What is known of a server.
#[derive(Debug, Clone, Default)]
struct State {
    failed: Option<Instant>,
    open: usize,
    /// Ends its connections when it leaves the list.
    end: CancellationToken,
}

/// All servers, and the connections to them.
pub struct Balancer {
    /// Tried when no other is left: the address that the agent was told to join.
    given: String,
    servers: Mutex<Vec<String>>,
    states: Mutex<HashMap<String, State>>,
}

/// In which order servers are tried: healthy ones first, those with fewer connections before, then as listed.
fn order(
    servers: &[String],
    given: &str,
    failed: impl Fn(&str) -> bool,
    open: impl Fn(&str) -> usize,
) -> Vec<String> {
    let mut ranked: Vec<(bool, usize, usize, &String)> = servers
        .iter()
        .enumerate()
        .map(|(place, server)| (failed(server), open(server), place, server))
        .collect();
    ranked.sort();
    let mut out: Vec<String> = ranked.into_iter().map(|(.., server)| server.clone()).collect();
    if !out.iter().any(|s| s == given) {
        out.push(given.to_string());
    }
    out
}

impl Balancer {
    /// Starts with the address that was given and what an earlier run knew.
    pub fn new(given: &str, servers: Vec<String>) -> Arc<Self> {
        Arc::new(Self { given: given.to_string(), servers: Mutex::new(servers), states: Mutex::default() })
    }

    /// The servers in use.
    pub fn servers(&self) -> Vec<String> {
        self.servers.lock().clone()
    }

    /// Takes another list; connections to servers that left it end. An empty list changes nothing.
    pub fn set(&self, servers: Vec<String>) -> bool {
        let mut current = self.servers.lock();
        if servers.is_empty() || *current == servers {
            return false;
        }
        let mut states = self.states.lock();
        states.retain(|name, state| {
            let stays = servers.contains(name) || *name == self.given;
            if !stays {
                state.end.cancel();
            }
            stays
        });
        *current = servers;
        true
    }

    fn ordered(&self) -> Vec<String> {
        let (servers, states) = (self.servers.lock(), self.states.lock());
        let failed =
            |name: &str| states.get(name).and_then(|s| s.failed).is_some_and(|at| at.elapsed() < SHUN);
        order(&servers, &self.given, failed, |name| states.get(name).map_or(0, |s| s.open))
    }

    async fn connect(&self) -> Option<(String, TcpStream, CancellationToken)> {
        for server in self.ordered() {
            let outcome = tokio::time::timeout(CONNECT, TcpStream::connect(server.as_str())).await;
            let mut states = self.states.lock();
            let state = states.entry(server.clone()).or_default();
            match outcome {
                Ok(Ok(stream)) => {
                    state.failed = None;
                    state.open += 1;
                    return Some((server, stream, state.end.clone()));
                }
                failure => {
                    let why = match failure {
                        Ok(Err(error)) => error.to_string(),
                        _ => "no answer in time".to_string(),
                    };
                    if state.failed.replace(Instant::now()).is_none() {
                        tracing::warn!(server, why, "API server does not answer, trying others");
                    }
                }
            }
        }
        None
    }

    async fn pass(self: Arc<Self>, mut client: TcpStream) {
        let Some((name, mut server, end)) = self.connect().await else { return };
        for stream in [&client, &server] {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY");
            }
        }
        tokio::select! {
            ended = tokio::io::copy_bidirectional(&mut client, &mut server) => {
                if let Err(error) = ended {
                    tracing::debug!(server = name, %error, "connection ended");
                }
            }
            () = end.cancelled() => tracing::debug!(server = name, "server left: its connection is closed"),
        }
        if let Some(state) = self.states.lock().get_mut(&name) {
            state.open = state.open.saturating_sub(1);
        }
    }

    /// Serves the listener until `shutdown`.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, shutdown: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => return,
            };
            match accepted {
                Ok((client, _)) => {
                    let (balancer, shutdown) = (self.clone(), shutdown.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            () = balancer.pass(client) => {}
                            () = shutdown.cancelled() => {}
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "load balancer cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[test]
    fn the_order_of_servers() {
        type Case = (
            &'static [&'static str],
            &'static [&'static str],
            &'static [(&'static str, usize)],
            &'static [&'static str],
        );
        let cases: &[Case] = &[
            (&["a", "b"], &[], &[], &["a", "b", "given"]),
            (&["a", "b"], &["a"], &[], &["b", "a", "given"]),
            (&["a", "b"], &[], &[("a", 2), ("b", 1)], &["b", "a", "given"]),
            (&["a", "given"], &["given"], &[], &["a", "given"]),
            (&[], &[], &[], &["given"]),
        ];
        for (servers, failed, open, want) in cases {
            let servers: Vec<String> = servers.iter().map(|s| (*s).to_string()).collect();
            let got = order(
                &servers,
                "given",
                |s| failed.contains(&s),
                |s| open.iter().find(|(n, _)| *n == s).map_or(0, |(_, n)| *n),
            );
            assert_eq!(got, *want, "{servers:?} {failed:?}");
        }
    }

    /// A server that answers every connection with its name.
    async fn named(name: &'static str) -> (String, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let task = tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.write_all(name.as_bytes()).await.unwrap();
                open.push(stream);
            }
        });
        (address, task)
    }

    async fn ask(at: std::net::SocketAddr) -> (String, TcpStream) {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let mut text = [0; 1];
        stream.read_exact(&mut text).await.unwrap();
        (String::from_utf8_lossy(&text).to_string(), stream)
    }

    #[tokio::test]
    async fn connections_move_to_servers_that_live() {
        let ((a, first), (b, _second)) = (named("a").await, named("b").await);
        let balancer = Balancer::new(&a, vec![a.clone(), b.clone()]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(balancer.clone().serve(listener, stop.clone()));
        let (name, kept) = ask(at).await;
        assert_eq!(name, "a");
        assert_eq!(ask(at).await.0, "b");
        first.abort();
        assert!(first.await.is_err());
        drop(kept);
        // A process that another test is just starting may hold the socket a moment longer.
        while TcpStream::connect(&a).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(ask(at).await.0, "b");
        // A server that leaves the list loses its connections.
        let (name, mut stream) = ask(at).await;
        assert_eq!(name, "b");
        let (c, _third) = named("c").await;
        assert!(balancer.set(vec![c]));
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(ask(at).await.0, "c");
        assert!(!balancer.set(Vec::new()));
        stop.cancel();
    }
}
