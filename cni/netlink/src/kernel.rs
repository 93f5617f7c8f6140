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
    /// Set the hardware address.
    Mac([u8; 6]),
    /// Let the device compute checksums of what is sent, or have the kernel compute them before.
    TxChecksum(Offload),
}

/// Who does a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    /// The device.
    On,
    /// The kernel.
    Off,
}

/// What a link's driver says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// Driver name ("vxlan", "veth", "vmxnet3", ...).
    pub name: String,
    /// Who computes checksums of what is sent.
    pub tx_checksum: Offload,
}

/// A VXLAN device, to create or as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VxlanSpec {
    /// Interface name.
    pub name: String,
    /// Network identifier.
    pub vni: u32,
    /// UDP port that it receives on and sends to.
    pub port: u16,
    /// Source address of what it sends.
    pub local: Option<IpAddr>,
    /// Index of the link that it sends through.
    pub underlay: Option<u32>,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Maximum transmission unit.
    pub mtu: u32,
    /// Where peers are found.
    pub learning: Learning,
}

/// How a VXLAN device learns where hardware addresses are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learning {
    /// From what it receives.
    FromTraffic,
    /// Not at all: only from the entries that it is given.
    Never,
}

/// A permanent neighbour (ARP, NDP) entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbor {
    /// Link that the neighbour is on.
    pub link: String,
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address.
    pub mac: [u8; 6],
}

/// A permanent entry in a VXLAN device's own forwarding database: which host to send frames for a hardware
/// address to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForwardingEntry {
    /// The VXLAN device.
    pub link: String,
    /// Hardware address of frames.
    pub mac: [u8; 6],
    /// Host that they are sent to.
    pub to: IpAddr,
}

/// Which changes of the network somebody wants to know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkInterest {
    /// These links come, go, or change, or get or lose an address.
    pub links: Vec<String>,
    /// Routes to destinations within these networks come or go.
    pub destinations: Vec<IpNetwork>,
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
    /// Through a gateway that is taken to be on the link, whatever the link's subnets are.
    OnLink,
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
    /// The link that has this address, and the address with its prefix length.
    async fn link_with(&self, ns: &Netns, address: IpAddr) -> Result<Option<(Link, IpNetwork)>>;
    /// Creates a bridge (down).
    async fn add_bridge(&self, ns: &Netns, spec: &BridgeSpec) -> Result<()>;
    /// Creates a veth pair (both ends down).
    async fn add_veth(&self, ns: &Netns, spec: &VethSpec) -> Result<()>;
    /// Creates a VXLAN device (down).
    async fn add_vxlan(&self, ns: &Netns, spec: &VxlanSpec) -> Result<()>;
    /// Reads a VXLAN device; `None` if there is no such link or it is of another kind.
    async fn vxlan(&self, ns: &Netns, name: &str) -> Result<Option<VxlanSpec>>;
    /// Asks a link's driver.
    async fn driver(&self, ns: &Netns, link: &str) -> Result<Driver>;
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
    /// Permanent neighbour entries of a link.
    async fn neighbors(&self, ns: &Netns, link: &str) -> Result<Vec<Neighbor>>;
    /// Adds a permanent neighbour entry, or replaces the one of the same address.
    async fn replace_neighbor(&self, ns: &Netns, entry: &Neighbor) -> Result<()>;
    /// Deletes a neighbour entry; false if it was not there.
    async fn delete_neighbor(&self, ns: &Netns, entry: &Neighbor) -> Result<bool>;
    /// Permanent forwarding entries of a VXLAN device.
    async fn forwarding(&self, ns: &Netns, link: &str) -> Result<Vec<ForwardingEntry>>;
    /// Adds a forwarding entry, or replaces the one of the same hardware address.
    async fn replace_forwarding(&self, ns: &Netns, entry: &ForwardingEntry) -> Result<()>;
    /// Deletes a forwarding entry; false if it was not there.
    async fn delete_forwarding(&self, ns: &Netns, entry: &ForwardingEntry) -> Result<bool>;
    /// Calls `changed` when it begins to watch, and after every change that somebody is interested in. Returns
    /// only with an error.
    async fn watch_network(
        &self,
        ns: &Netns,
        of: &NetworkInterest,
        changed: &(dyn Fn() + Send + Sync),
    ) -> Result<std::convert::Infallible>;
    /// Release of the running kernel ("6.18.44").
    fn release(&self) -> String;
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
