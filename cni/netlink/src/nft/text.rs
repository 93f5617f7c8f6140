//! Text form of rules, close to nft's own, and the digest that identifies a rule.

use std::fmt;

use super::{Field, Sense, Side, Stmt, Verdict};

/// FNV-1a, 64 bits.
pub fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    let start: u64 = 0xcbf2_9ce4_8422_2325;
    bytes.fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Digest of the statements' text.
pub(super) fn digest(stmts: &[Stmt]) -> String {
    let lines: String = stmts.iter().map(|stmt| format!("{stmt}\n")).collect();
    format!("{:016x}", fnv(lines.bytes()))
}

fn not(s: Sense) -> &'static str {
    match s {
        Sense::Is => "",
        Sense::IsNot => "!= ",
    }
}

fn side(s: Side) -> &'static str {
    match s {
        Side::Source => "saddr",
        Side::Destination => "daddr",
    }
}

fn fields(fields: &[Field]) -> String {
    let names: Vec<&str> = fields
        .iter()
        .map(|f| match f {
            Field::SourceAddress => "saddr",
            Field::DestinationAddress => "daddr",
            Field::Protocol => "meta l4proto",
            Field::DestinationPort => "th dport",
        })
        .collect();
    names.join(" . ")
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(c) => write!(f, "jump {c}"),
            Self::Goto(c) => write!(f, "goto {c}"),
        }
    }
}

impl fmt::Display for Stmt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(s, n, net) => write!(f, "{} {}{net}", side(*s), not(*n)),
            Self::LocalAddress(s, n) => write!(f, "fib {} type {}local", side(*s), not(*n)),
            Self::FromInterface(i) => write!(f, "iifname {i}"),
            Self::Protocol(p) => write!(f, "meta l4proto {p}"),
            Self::Port(p) => write!(f, "th dport {p}"),
            Self::Ports(first, last) => write!(f, "th dport {first}-{last}"),
            Self::Reply => f.write_str("ct direction reply"),
            Self::Related => f.write_str("ct state related"),
            Self::NewConnection => f.write_str("ct state new"),
            Self::Translated(n) => write!(f, "ct status {}dnat", not(*n)),
            Self::Mark(n, m) => write!(f, "meta mark and {m:#x} {}{m:#x}", not(*n)),
            Self::SetMark(m) => write!(f, "meta mark set mark or {m:#x}"),
            Self::ClearMark(m) => write!(f, "meta mark set mark and {:#x}", !m),
            Self::InSet(n, k, s) => write!(f, "{} {}@{s}", fields(k), not(*n)),
            Self::VerdictMap(k, s) => write!(f, "{} vmap @{s}", fields(k)),
            Self::Resolve(k, s) => write!(f, "{} map @{s}", fields(k)),
            Self::ResolveRandom(m, s) => write!(f, "numgen random mod {m} map @{s}"),
            Self::Remember(k, s) => write!(f, "update @{s} {{ {} : resolved }}", fields(k)),
            Self::Dnat => f.write_str("dnat to resolved"),
            Self::Masquerade => f.write_str("masquerade"),
            Self::Reject => f.write_str("reject"),
            Self::Reset => f.write_str("reject with tcp reset"),
            Self::Verdict(v) => v.fmt(f),
        }
    }
}
