//! Addresses of pods on one node. Entry point: [`Store`].
//!
//! The choice of an address is pure ([`pick`]); the state is one file per address in a directory, named by the
//! address and holding the container's id and interface name, so that addresses outlive every restart of ours
//! as long as their containers do. Knows nothing of links or Kubernetes.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;

/// Who holds an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// Container (sandbox) id.
    pub container: String,
    /// Interface name inside.
    pub interface: String,
}

impl Owner {
    /// An owner.
    pub fn new(container: impl Into<String>, interface: impl Into<String>) -> Self {
        Self { container: container.into(), interface: interface.into() }
    }
}

/// Why an address could not be had or given back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// All addresses are held.
    #[error("allocate address for container {container}: no free address in {network} ({held} held)")]
    Exhausted {
        /// Who asked.
        container: String,
        /// The range.
        network: IpNetwork,
        /// How many are held.
        held: usize,
    },
    /// The wanted address is held by someone else.
    #[error("allocate address {address} for container {container}: held by container {holder}")]
    Held {
        /// Who asked.
        container: String,
        /// The address.
        address: IpAddr,
        /// Who holds it.
        holder: String,
    },
    /// The wanted address cannot be given to a pod.
    #[error("allocate address {address} for container {container}: not a pod address of {network}")]
    Outside {
        /// Who asked.
        container: String,
        /// The address.
        address: IpAddr,
        /// The range.
        network: IpNetwork,
    },
    /// The range is too small to hold a gateway and a pod.
    #[error("use {0} for pods: the range holds no address besides network, gateway and broadcast")]
    TooSmall(IpNetwork),
    /// The state directory failed.
    #[error("{operation} {path}: {source}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// File or directory.
        path: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

fn number(a: IpAddr) -> u128 {
    match a {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

fn address(n: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from(u32::try_from(n).unwrap_or(u32::MAX)).into(),
        IpAddr::V6(_) => Ipv6Addr::from(n).into(),
    }
}

/// The gateway of a range: its first host address.
pub fn gateway(network: IpNetwork) -> IpAddr {
    address(number(network.network()) + 1, network.network())
}

/// First and last address for pods: after the gateway, before the broadcast address.
fn bounds(network: IpNetwork) -> Option<(u128, u128)> {
    let last = match network {
        IpNetwork::V4(n) => number(n.broadcast().into()).checked_sub(1)?,
        IpNetwork::V6(n) => {
            number(n.network().into()) | (u128::MAX.checked_shr(u32::from(n.prefix())).unwrap_or(0))
        }
    };
    let first = number(gateway(network)) + 1;
    (first <= last).then_some((first, last))
}

/// The address to give next: the first free one after `last`, going round. A released address is so used
/// again as late as possible.
pub fn pick(network: IpNetwork, held: &BTreeMap<IpAddr, Owner>, last: Option<IpAddr>) -> Option<IpAddr> {
    let (lo, hi) = bounds(network)?;
    let start = last.map(number).filter(|n| (lo..hi).contains(n)).map_or(lo, |n| n + 1);
    // At most one candidate more than there are held addresses needs to be looked at.
    (start..=hi).chain(lo..start).map(|n| address(n, network.network())).find(|a| !held.contains_key(a))
}

/// The state directory of one range.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
    network: IpNetwork,
}

impl Store {
    /// The store in `dir`, made if missing, for pods of `network`.
    pub fn open(dir: impl Into<PathBuf>, network: IpNetwork) -> Result<Self> {
        let store = Self { dir: dir.into(), network };
        if bounds(network).is_none() {
            return Err(Error::TooSmall(network));
        }
        std::fs::create_dir_all(&store.dir).map_err(|e| io("create", &store.dir, e))?;
        Ok(store)
    }

    /// The range's gateway.
    pub fn gateway(&self) -> IpAddr {
        gateway(self.network)
    }

    /// An address for `owner`; the one it holds already, if it does.
    pub fn allocate(&self, owner: &Owner, wanted: Option<IpAddr>) -> Result<IpAddr> {
        let _lock = self.lock()?;
        let held = self.read()?;
        if let Some((have, _)) = held.iter().find(|(a, o)| *o == owner && wanted.is_none_or(|w| w == **a)) {
            return Ok(*have);
        }
        let container = || owner.container.clone();
        let chosen = match wanted {
            Some(a) => {
                let inside = bounds(self.network).is_some_and(|(lo, hi)| (lo..=hi).contains(&number(a)));
                if a.is_ipv4() != self.network.is_ipv4() || !inside {
                    return Err(Error::Outside { container: container(), address: a, network: self.network });
                }
                if let Some(holder) = held.get(&a) {
                    return Err(Error::Held {
                        container: container(),
                        address: a,
                        holder: holder.container.clone(),
                    });
                }
                a
            }
            None => pick(self.network, &held, self.last()).ok_or_else(|| Error::Exhausted {
                container: container(),
                network: self.network,
                held: held.len(),
            })?,
        };
        self.write(&chosen.to_string(), &format!("{}\n{}\n", owner.container, owner.interface))?;
        self.write("last", &format!("{chosen}\n"))?;
        Ok(chosen)
    }

    /// The address `owner` holds.
    pub fn find(&self, owner: &Owner) -> Result<Option<IpAddr>> {
        Ok(self.held()?.into_iter().find(|(_, o)| o == owner).map(|(a, _)| a))
    }

    /// All held addresses.
    pub fn held(&self) -> Result<BTreeMap<IpAddr, Owner>> {
        let _lock = self.lock()?;
        self.read()
    }

    /// Gives back what `owner` holds; nothing if it holds nothing.
    pub fn release(&self, owner: &Owner) -> Result<Vec<IpAddr>> {
        self.release_where(|o| o == owner)
    }

    /// Gives back everything that is not held by one of `valid`.
    pub fn retain(&self, valid: &[Owner]) -> Result<Vec<IpAddr>> {
        self.release_where(|o| !valid.contains(o))
    }

    fn release_where(&self, gone: impl Fn(&Owner) -> bool) -> Result<Vec<IpAddr>> {
        let _lock = self.lock()?;
        let mut released = Vec::new();
        for (a, _) in self.read()?.into_iter().filter(|(_, o)| gone(o)) {
            let path = self.dir.join(a.to_string());
            std::fs::remove_file(&path).map_err(|e| io("release", &path, e))?;
            released.push(a);
        }
        Ok(released)
    }

    fn lock(&self) -> Result<File> {
        let path = self.dir.join("lock");
        let file = File::options().create(true).append(true).open(&path).map_err(|e| io("open", &path, e))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|e| io("lock", &path, e.into()))?;
        Ok(file)
    }

    fn read(&self) -> Result<BTreeMap<IpAddr, Owner>> {
        let mut held = BTreeMap::new();
        for entry in std::fs::read_dir(&self.dir).map_err(|e| io("read", &self.dir, e))? {
            let entry = entry.map_err(|e| io("read", &self.dir, e))?;
            let Some(a) = entry.file_name().to_str().and_then(|n| n.parse::<IpAddr>().ok()) else {
                continue;
            };
            let text = std::fs::read_to_string(entry.path()).map_err(|e| io("read", &entry.path(), e))?;
            let mut lines = text.lines();
            held.insert(a, Owner::new(lines.next().unwrap_or(""), lines.next().unwrap_or("")));
        }
        Ok(held)
    }

    fn last(&self) -> Option<IpAddr> {
        std::fs::read_to_string(self.dir.join("last")).ok()?.trim().parse().ok()
    }

    /// Writes a file whole or not at all.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let (path, tmp) = (self.dir.join(name), self.dir.join(format!(".{name}.tmp")));
        let put = || -> std::io::Result<()> {
            let mut f = File::create(&tmp)?;
            f.write_all(text.as_bytes())?;
            f.sync_data()?;
            std::fs::rename(&tmp, &path)
        };
        put().map_err(|e| io("write", &path, e))
    }
}

fn io(operation: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::Io { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(s: &str) -> IpNetwork {
        s.parse().unwrap()
    }

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    #[test]
    fn picks_round_robin_and_skips_what_is_not_for_pods() {
        let owner = Owner::new("c", "eth0");
        for (range, held, last, want) in [
            ("10.42.0.0/24", &[][..], None, Some("10.42.0.2")),
            ("10.42.0.0/24", &["10.42.0.2"], None, Some("10.42.0.3")),
            ("10.42.0.0/24", &[], Some("10.42.0.9"), Some("10.42.0.10")),
            ("10.42.0.0/24", &[], Some("10.42.0.254"), Some("10.42.0.2")),
            ("10.42.0.0/24", &[], Some("192.168.0.1"), Some("10.42.0.2")),
            ("10.42.0.0/30", &[], None, Some("10.42.0.2")),
            ("10.42.0.0/30", &["10.42.0.2"], None, None),
            ("10.42.0.0/31", &[], None, None),
            ("fd00::/64", &["fd00::2"], None, Some("fd00::3")),
        ] {
            let held = held.iter().map(|a| (ip(a), owner.clone())).collect();
            assert_eq!(pick(net(range), &held, last.map(ip)), want.map(ip), "{range} {last:?}");
        }
        assert_eq!(gateway(net("10.42.3.0/24")), ip("10.42.3.1"));
    }

    #[test]
    fn state_outlives_the_store_and_is_idempotent() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), net("10.42.0.0/29")).unwrap();
        let a = Owner::new("a", "eth0");
        let first = store.allocate(&a, None).unwrap();
        assert_eq!(store.allocate(&a, None).unwrap(), first);
        let again = Store::open(dir.path(), net("10.42.0.0/29")).unwrap();
        assert_eq!(again.find(&a).unwrap(), Some(first));
        for i in 0..4 {
            again.allocate(&Owner::new(format!("b{i}"), "eth0"), None).unwrap();
        }
        let full = again.allocate(&Owner::new("z", "eth0"), None).unwrap_err();
        assert!(matches!(full, Error::Exhausted { held: 5, .. }), "{full}");
        assert_eq!(again.release(&a).unwrap(), [first]);
        assert!(again.release(&a).unwrap().is_empty());
        assert_eq!(again.allocate(&Owner::new("z", "eth0"), None).unwrap(), first);
        let keep = Owner::new("b1", "eth0");
        assert_eq!(again.retain(std::slice::from_ref(&keep)).unwrap().len(), 4);
        assert_eq!(again.held().unwrap().into_values().collect::<Vec<_>>(), [keep]);
    }

    #[test]
    fn wanted_addresses() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), net("10.42.0.0/24")).unwrap();
        let (a, b) = (Owner::new("a", "eth0"), Owner::new("b", "eth0"));
        assert_eq!(store.allocate(&a, Some(ip("10.42.0.77"))).unwrap(), ip("10.42.0.77"));
        assert!(matches!(store.allocate(&b, Some(ip("10.42.0.77"))), Err(Error::Held { .. })));
        assert!(matches!(store.allocate(&b, Some(ip("10.42.0.1"))), Err(Error::Outside { .. })));
        assert!(matches!(store.allocate(&b, Some(ip("10.43.0.5"))), Err(Error::Outside { .. })));
    }

    #[test]
    fn many_at_once_get_different_addresses() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), net("10.42.0.0/24")).unwrap();
        std::thread::scope(|s| {
            for t in 0..8 {
                let store = &store;
                s.spawn(move || {
                    for i in 0..10 {
                        store.allocate(&Owner::new(format!("{t}-{i}"), "eth0"), None).unwrap();
                    }
                });
            }
        });
        assert_eq!(store.held().unwrap().len(), 80);
    }
}
