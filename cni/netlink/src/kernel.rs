//! What we ask of the kernel's network stack. Entry point: [`Kernel`].

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use ipnetwork::IpNetwork;

use crate::error::Result;
use crate::nft::{Family, Op, Table};

/// Which network namespace an operation is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Netns {
    /// The namespace of the calling process.
    Host,
    /// The namespace bound to this path.
    Path(PathBuf),
}

impl Netns {
    /// The namespace called `name` under `/run/netns`.
    pub fn named(name: &str) -> Self {
        Self::Path(Path::new("/run/netns").join(name))
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host netns"),
            Self::Path(p) => write!(f, "netns {}", p.display()),
        }
    }
}

/// A link as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index in its namespace.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Kind ("bridge", "veth", ...); empty for physical devices and loopback.
    pub kind: String,
    /// Hardware address; all zero where the link has none.
    pub mac: [u8; 6],
    /// Maximum transmission unit.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Index of the master it is enslaved to.
    pub master: Option<u32>,
}

impl Link {
    /// The hardware address as text.
    pub fn mac_text(&self) -> String {
        let m = self.mac;
        format!("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
    }
}

/// A bridge to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeSpec {
    /// Interface name.
    pub name: String,
    /// A fixed hardware address: without one a bridge takes over the lowest of its ports'.
    pub mac: [u8; 6],
    /// Maximum transmission unit; the kernel's default when `None`.
    pub mtu: Option<u32>,
}

/// A veth pair to create: one end here, the other in `peer_ns`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VethSpec {
    /// Name of the end in the namespace of the call.
    pub name: String,
    /// Namespace of the other end.
    pub peer_ns: Netns,
    /// Name of the other end.
    pub peer_name: String,
    /// Hardware address of the other end; random when `None`.
    pub peer_mac: Option<[u8; 6]>,
    /// Maximum transmission unit of both ends; the kernel's default when `None`.
    pub mtu: Option<u32>,
}

/// A change to a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkChange {
    /// Set administratively up.
    Up,
    /// Set administratively down.
    Down,
    /// Enslave to the named master.
    Master(String),
    /// Let a bridge port send frames back where they came from.
    Hairpin,
    /// Set the maximum transmission unit.
    Mtu(u32),
}

/// How an address is put on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AddressOptions {
    /// As usual: the kernel adds the route of the subnet.
    #[default]
    WithSubnetRoute,
    /// The address alone, no subnet route.
    AddressOnly,
}

/// How far a route's destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RouteScope {
    /// Through a gateway or anywhere.
    #[default]
    Universe,
    /// Directly on the link.
    Link,
}

/// A route in the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination; prefix length 0 is the default route.
    pub destination: IpNetwork,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Outgoing interface name.
    pub device: Option<String>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// Scope.
    pub scope: RouteScope,
}

/// Which tracked connections to forget.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConntrackFlow {
    /// IP protocol number.
    pub protocol: u8,
    /// Destination address before translation.
    pub original_destination: Option<IpAddr>,
    /// Destination port before translation.
    pub original_port: Option<u16>,
    /// Address of the endpoint that it was translated to.
    pub endpoint: Option<IpAddr>,
}

/// The kernel's network stack. Every method names the namespace it works in.
#[async_trait]
pub trait Kernel: Send + Sync {
    /// All links.
    async fn links(&self, ns: &Netns) -> Result<Vec<Link>>;
    /// One link, or `None`.
    async fn link(&self, ns: &Netns, name: &str) -> Result<Option<Link>>;
    /// Creates a bridge (down).
    async fn add_bridge(&self, ns: &Netns, spec: &BridgeSpec) -> Result<()>;
    /// Creates a veth pair (both ends down).
    async fn add_veth(&self, ns: &Netns, spec: &VethSpec) -> Result<()>;
    /// Changes a link.
    async fn change_link(&self, ns: &Netns, name: &str, change: &LinkChange) -> Result<()>;
    /// Deletes a link; false if it was not there.
    async fn delete_link(&self, ns: &Netns, name: &str) -> Result<bool>;
    /// Addresses of a link.
    async fn addresses(&self, ns: &Netns, link: &str) -> Result<Vec<IpNetwork>>;
    /// Puts an address on a link; no error if it is there.
    async fn add_address(
        &self,
        ns: &Netns,
        link: &str,
        address: IpNetwork,
        options: AddressOptions,
    ) -> Result<()>;
    /// Takes an address off a link; false if it was not there.
    async fn delete_address(&self, ns: &Netns, link: &str, address: IpNetwork) -> Result<bool>;
    /// Routes of the main table.
    async fn routes(&self, ns: &Netns) -> Result<Vec<Route>>;
    /// Adds a route, or replaces the one to the same destination.
    async fn replace_route(&self, ns: &Netns, route: &Route) -> Result<()>;
    /// Deletes a route; false if it was not there.
    async fn delete_route(&self, ns: &Netns, route: &Route) -> Result<bool>;
    /// Reads a sysctl, given with slashes ("net/ipv4/ip_forward"); `None` if the kernel has no such key.
    async fn sysctl(&self, ns: &Netns, key: &str) -> Result<Option<String>>;
    /// Writes a sysctl.
    async fn set_sysctl(&self, ns: &Netns, key: &str, value: &str) -> Result<()>;
    /// True if a network namespace is bound to the path.
    async fn netns_exists(&self, path: &Path) -> Result<bool>;
    /// Creates a network namespace bound to the path.
    async fn add_netns(&self, path: &Path) -> Result<()>;
    /// Unbinds and removes it; false if it was not there.
    async fn delete_netns(&self, path: &Path) -> Result<bool>;
    /// Reads one nftables table back as the model; `None` if it is not there.
    async fn nft_table(&self, ns: &Netns, family: Family, table: &str) -> Result<Option<Table>>;
    /// Performs the operations on one nftables table in one transaction.
    async fn nft_commit(&self, ns: &Netns, family: Family, table: &str, ops: &[Op]) -> Result<()>;
    /// Deletes an nftables table; false if it was not there.
    async fn nft_delete_table(&self, ns: &Netns, family: Family, table: &str) -> Result<bool>;
    /// Waits until somebody deletes the nftables table, also if that may only have been missed. A table deleted
    /// before the call is not noticed: look after the call is pending.
    async fn nft_table_deleted(&self, ns: &Netns, family: Family, table: &str) -> Result<()>;
    /// Forgets tracked connections that match; returns how many.
    async fn delete_conntrack(&self, ns: &Netns, flow: &ConntrackFlow) -> Result<usize>;
}
