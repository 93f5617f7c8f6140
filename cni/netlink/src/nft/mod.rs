//! The model of one nftables table: chains of rules, sets and maps, as pure data.
//!
//! Entry points: [`Table`] (what should be), [`diff`] (the operations of one transaction that turn one table
//! into another). A rule is a list of [`Stmt`]s; its text form doubles as its identity, of which a digest is
//! kept in the kernel as the rule's comment, so that a table found at start can be compared without decoding
//! expressions.

mod diff;
pub(crate) mod dump;
mod expr;
mod text;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

pub use diff::{Op, diff};
pub use text::fnv;

/// Kernel names may be longer; this is long enough to read.
const NAME_LIMIT: usize = 110;

/// Address family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Frames between the ports of a bridge. Addresses are IPv4's here.
    Bridge,
}

impl Family {
    /// The family of an address.
    pub fn of(addr: IpAddr) -> Self {
        if addr.is_ipv4() { Self::Ip } else { Self::Ip6 }
    }

    /// The addresses of every host itself; none where addresses are not known.
    pub fn loopback(self) -> Option<IpNetwork> {
        match self {
            Self::Ip => "127.0.0.0/8".parse().ok(),
            Self::Ip6 => "::1/128".parse().ok(),
            Self::Bridge => None,
        }
    }

    /// The addresses of groups; none where addresses are not known.
    pub fn multicast(self) -> Option<IpNetwork> {
        match self {
            Self::Ip => "224.0.0.0/4".parse().ok(),
            Self::Ip6 => "ff00::/8".parse().ok(),
            Self::Bridge => None,
        }
    }

    /// As nft writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Bridge => "bridge",
        }
    }
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    /// Sets and maps by name.
    pub sets: BTreeMap<String, Set>,
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
}

/// A chain: regular, or attached to a hook.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain {
    /// Hook of a base chain.
    pub base: Option<Base>,
    /// Rules in order.
    pub rules: Vec<Rule>,
}

/// Where a base chain is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// Chain type.
    pub kind: ChainKind,
    /// Hook.
    pub hook: Hook,
    /// Priority among the chains of the hook.
    pub priority: i32,
}

/// Type of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// Filtering.
    Filter,
    /// Address translation.
    Nat,
}

/// Netfilter hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Before routing.
    Prerouting,
    /// To this host.
    Input,
    /// Through this host.
    Forward,
    /// From this host.
    Output,
    /// After routing.
    Postrouting,
}

impl Hook {
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }

    pub(crate) fn from_number(n: u32) -> Option<Self> {
        [Self::Prerouting, Self::Input, Self::Forward, Self::Output, Self::Postrouting]
            .get(n as usize)
            .copied()
    }
}

/// A rule: statements of which each must let the packet on to the next. A rule that was read back from the
/// kernel has only its digest.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Statements; empty when read back.
    pub stmts: Vec<Stmt>,
    /// Identity: digest of the text form.
    pub digest: String,
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}
impl Eq for Rule {}

impl Rule {
    /// A rule of these statements.
    pub fn new(stmts: Vec<Stmt>) -> Self {
        let digest = text::digest(&stmts);
        Self { stmts, digest }
    }
}

impl From<Vec<Stmt>> for Rule {
    fn from(stmts: Vec<Stmt>) -> Self {
        Self::new(stmts)
    }
}

/// The number of a transport protocol that has ports, by the name that the API has for it.
pub fn transport(name: &str) -> Option<u8> {
    match name {
        "TCP" => Some(6),
        "UDP" => Some(17),
        "SCTP" => Some(132),
        _ => None,
    }
}

/// Source or destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Source.
    Source,
    /// Destination.
    Destination,
}

/// Whether a match is turned round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sense {
    /// Continue if it is so.
    Is,
    /// Continue if it is not so.
    IsNot,
}

/// A packet field, as part of a key or of map data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// Source address.
    SourceAddress,
    /// Destination address.
    DestinationAddress,
    /// Transport protocol.
    Protocol,
    /// Destination port (TCP, UDP, SCTP).
    DestinationPort,
}

/// One statement of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stmt {
    /// Address in network.
    Address(Side, Sense, IpNetwork),
    /// Type of the address is local to this host.
    LocalAddress(Side, Sense),
    /// Came in through the named interface; with `*` at the end, through one whose name begins so.
    FromInterface(String),
    /// Transport protocol number.
    Protocol(u8),
    /// Destination port.
    Port(u16),
    /// Destination port from the first to the last, both included.
    Ports(u16, u16),
    /// Connection is in state new.
    NewConnection,
    /// Packet goes against the direction in which its connection was opened.
    Reply,
    /// Packet is about another connection (an ICMP error, an expected data connection).
    Related,
    /// Connection was translated (destination).
    Translated(Sense),
    /// All bits of the mark are set (or not).
    Mark(Sense, u32),
    /// Sets bits of the mark.
    SetMark(u32),
    /// Clears bits of the mark.
    ClearMark(u32),
    /// Key is in the set.
    InSet(Sense, Vec<Field>, String),
    /// Goes where the verdict map says for the key; continues if it has nothing.
    VerdictMap(Vec<Field>, String),
    /// Loads address and port from the map for the key; the rule ends if it has none.
    Resolve(Vec<Field>, String),
    /// Loads address and port from the map for a random number below the modulus.
    ResolveRandom(u32, String),
    /// Remembers key -> loaded address and port in the map, or refreshes it.
    Remember(Vec<Field>, String),
    /// Translates the destination to the loaded address and port.
    Dnat,
    /// Translates the source to the address of the outgoing interface.
    Masquerade,
    /// Refuses with ICMP port unreachable.
    Reject,
    /// Refuses a TCP connection with a reset (which the kernel does not rate-limit as it does ICMP).
    Reset,
    /// Verdict.
    Verdict(Verdict),
}

/// A verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Accept.
    Accept,
    /// Drop.
    Drop,
    /// Back to the calling chain.
    Return,
    /// Call a chain.
    Jump(String),
    /// Continue in a chain.
    Goto(String),
}

/// Name of a chain or set that belongs to something with a name of its own: kind, digest, and the name for people,
/// in characters that nft reads and cut to a limit.
pub fn name_of(kind: &str, what: &str) -> String {
    let readable =
        what.chars().map(|c| if c.is_ascii_alphanumeric() || "-_./".contains(c) { c } else { '_' });
    let head = format!("{kind}-{:016x}-", fnv(what.bytes()));
    head.chars().chain(readable).take(NAME_LIMIT).collect()
}

/// Type of a key or data field of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldType {
    /// An address of the table's family.
    Address,
    /// Transport protocol.
    Protocol,
    /// Port.
    Port,
    /// A number in host order.
    Number,
}

/// What a set's elements carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetData {
    /// Nothing: a plain set.
    None,
    /// A verdict.
    Verdict,
    /// A value of these fields.
    Value(Vec<FieldType>),
}

/// A set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Fields of the key.
    pub key: Vec<FieldType>,
    /// What elements carry.
    pub data: SetData,
    /// Filled by the packet path, elements expire after so many seconds.
    pub timeout_seconds: Option<u64>,
    /// Elements: key bytes -> data. Not declared for a set filled by the packet path.
    pub elements: BTreeMap<Vec<u8>, Data>,
}

impl Set {
    /// An empty set of this shape.
    pub fn new(key: Vec<FieldType>, data: SetData) -> Self {
        Self { key, data, timeout_seconds: None, elements: BTreeMap::new() }
    }

    /// Puts an element in; several fields are padded to words each, a single one keeps its own length.
    pub fn insert(&mut self, key: Key, data: Data) {
        let cut = |fields: &[FieldType], mut bytes: Vec<u8>| {
            match fields {
                [FieldType::Protocol] => bytes.truncate(1),
                [FieldType::Port] => bytes.truncate(2),
                _ => {}
            }
            bytes
        };
        let data = match (data, &self.data) {
            (Data::Value(v), SetData::Value(fields)) => Data::Value(cut(fields, v)),
            (data, _) => data,
        };
        let key = cut(&self.key, key.0);
        self.elements.insert(key, data);
    }
}

/// What an element carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// Nothing.
    None,
    /// Bytes in the layout of the set's data fields.
    Value(Vec<u8>),
    /// A verdict.
    Verdict(Verdict),
}

/// Builds key or data bytes: every field padded to four bytes.
#[derive(Debug, Clone, Default)]
pub struct Key(Vec<u8>);

impl Key {
    /// Empty key.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an address.
    pub fn address(mut self, addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(a) => self.0.extend(a.octets()),
            IpAddr::V6(a) => self.0.extend(a.octets()),
        }
        self
    }

    /// Appends a transport protocol number.
    pub fn protocol(mut self, proto: u8) -> Self {
        self.0.extend([proto, 0, 0, 0]);
        self
    }

    /// Appends a port.
    pub fn port(mut self, port: u16) -> Self {
        let b = port.to_be_bytes();
        self.0.extend([b[0], b[1], 0, 0]);
        self
    }

    /// Appends a number in host order.
    pub fn number(mut self, n: u32) -> Self {
        self.0.extend(n.to_ne_bytes());
        self
    }

    /// The bytes, every field padded.
    pub fn bytes(self) -> Vec<u8> {
        self.0
    }
}
