//! Rules as nf_tables expressions. Entry point: [`expressions`].

use ipnetwork::IpNetwork;
use nlink::netlink::nftables as nl;
use nlink::netlink::nftables::{CmpOp, Expr, PayloadBase, RawExpr, Register};

use super::wire::{attrs, verdict_code, width};
use super::{Family, Field, FieldType, Sense, Side, Stmt, Verdict};

/// Words from which keys and data are laid out in registers.
const KEY_WORD: u32 = 8;
const DATA_WORD: u32 = 16;

fn register(word: u32) -> Register {
    use Register::{
        Reg32_00, Reg32_01, Reg32_02, Reg32_03, Reg32_04, Reg32_05, Reg32_06, Reg32_07, Reg32_08, Reg32_09,
        Reg32_10, Reg32_11, Reg32_12, Reg32_13, Reg32_14, Reg32_15,
    };
    const ALL: [Register; 16] = [
        Reg32_00, Reg32_01, Reg32_02, Reg32_03, Reg32_04, Reg32_05, Reg32_06, Reg32_07, Reg32_08, Reg32_09,
        Reg32_10, Reg32_11, Reg32_12, Reg32_13, Reg32_14, Reg32_15,
    ];
    ALL.get((word.saturating_sub(KEY_WORD)) as usize).copied().unwrap_or(Reg32_15)
}

fn address_load(side: Side, family: Family, dreg: Register) -> Expr {
    let (offset, len) = match (family, side) {
        (Family::Ip | Family::Bridge, Side::Source) => (12, 4),
        (Family::Ip | Family::Bridge, Side::Destination) => (16, 4),
        (Family::Ip6, Side::Source) => (8, 16),
        (Family::Ip6, Side::Destination) => (24, 16),
    };
    Expr::Payload { dreg, base: PayloadBase::Network, offset, len }
}

/// Loads the fields one after the other, each on a word boundary.
fn load_key(fields: &[Field], family: Family, out: &mut Vec<Expr>) {
    let mut word = KEY_WORD;
    for field in fields {
        let dreg = register(word);
        let (expr, words) = match field {
            Field::SourceAddress => {
                (address_load(Side::Source, family, dreg), width(FieldType::Address, family) / 4)
            }
            Field::DestinationAddress => {
                (address_load(Side::Destination, family, dreg), width(FieldType::Address, family) / 4)
            }
            Field::Protocol => (Expr::Meta { dreg, key: nl::MetaKey::L4Proto }, 1),
            Field::DestinationPort => {
                (Expr::Payload { dreg, base: PayloadBase::Transport, offset: 2, len: 2 }, 1)
            }
        };
        out.push(expr);
        word += words;
    }
}

fn op(sense: Sense) -> CmpOp {
    match sense {
        Sense::Is => CmpOp::Eq,
        Sense::IsNot => CmpOp::Neq,
    }
}

fn address_match(side: Side, sense: Sense, net: &IpNetwork, family: Family, out: &mut Vec<Expr>) {
    let bytes = |a: std::net::IpAddr| match a {
        std::net::IpAddr::V4(a) => a.octets().to_vec(),
        std::net::IpAddr::V6(a) => a.octets().to_vec(),
    };
    let (mask, network) = (bytes(net.mask()), bytes(net.network()));
    let len = u32::try_from(mask.len()).unwrap_or(16);
    let reg = Register::R0;
    out.push(address_load(side, family, reg));
    if usize::from(net.prefix()) < mask.len() * 8 {
        out.push(Expr::Bitwise { sreg: reg, dreg: reg, len, mask, xor: vec![0; len as usize] });
    }
    out.push(Expr::Cmp { sreg: reg, op: op(sense), data: network });
}

/// `value & mask` compared with zero.
fn bits(sense: Sense, mask: u32, out: &mut Vec<Expr>) {
    let reg = Register::R0;
    out.push(Expr::Bitwise {
        sreg: reg,
        dreg: reg,
        len: 4,
        mask: mask.to_ne_bytes().to_vec(),
        xor: vec![0; 4],
    });
    let op = match sense {
        Sense::Is => CmpOp::Neq,
        Sense::IsNot => CmpOp::Eq,
    };
    out.push(Expr::Cmp { sreg: reg, op, data: vec![0; 4] });
}

fn set_mark(and: u32, xor: u32, out: &mut Vec<Expr>) {
    let reg = Register::R0;
    out.push(Expr::Meta { dreg: reg, key: nl::MetaKey::Mark });
    out.push(Expr::Bitwise {
        sreg: reg,
        dreg: reg,
        len: 4,
        mask: and.to_ne_bytes().to_vec(),
        xor: xor.to_ne_bytes().to_vec(),
    });
    out.push(Expr::MetaSet { key: nl::MetaKey::Mark, sreg: reg });
}

fn dnat(family: Family) -> Expr {
    let port_word = DATA_WORD + width(FieldType::Address, family) / 4;
    let data = attrs(|b| {
        b.append_attr_u32_be(1, 1); // type: destination
        b.append_attr_u32_be(2, if family == Family::Ip { 2 } else { 10 });
        b.append_attr_u32_be(3, register(DATA_WORD) as u32);
        b.append_attr_u32_be(5, register(port_word) as u32);
    });
    RawExpr::new("nat", data).into()
}

/// The expressions of a rule.
pub(crate) fn expressions(stmts: &[Stmt], family: Family) -> Vec<Expr> {
    let mut out = Vec::new();
    for stmt in stmts {
        append_stmt(stmt, family, &mut out);
    }
    out
}

fn append_stmt(stmt: &Stmt, family: Family, out: &mut Vec<Expr>) {
    let reg = Register::R0;
    match stmt {
        Stmt::Address(side, sense, net) => address_match(*side, *sense, net, family, out),
        Stmt::LocalAddress(side, sense) => {
            let flags = match side {
                Side::Source => nl::FibFlags::SADDR,
                Side::Destination => nl::FibFlags::DADDR,
            };
            out.push(Expr::Fib { dreg: reg, result: nl::FibResult::AddrType, flags });
            out.push(Expr::Cmp { sreg: reg, op: op(*sense), data: 2u32.to_ne_bytes().to_vec() });
        }
        Stmt::FromInterface(_) | Stmt::Protocol(_) | Stmt::Port(_) | Stmt::Ports(..) => {
            append_meta(stmt, out);
        }
        Stmt::NewConnection | Stmt::Related | Stmt::Reply | Stmt::Translated(_) => {
            append_connection(stmt, out);
        }
        Stmt::Mark(sense, mask) => {
            out.push(Expr::Meta { dreg: reg, key: nl::MetaKey::Mark });
            bits(*sense, *mask, out);
        }
        Stmt::SetMark(mask) => set_mark(!mask, *mask, out),
        Stmt::ClearMark(mask) => set_mark(!mask, 0, out),
        Stmt::InSet(..)
        | Stmt::VerdictMap(..)
        | Stmt::Resolve(..)
        | Stmt::ResolveRandom(..)
        | Stmt::Remember(..) => {
            append_lookup(stmt, family, out);
        }
        Stmt::Dnat => out.push(dnat(family)),
        Stmt::Masquerade => out.push(nl::MasqExpr::new().into()),
        Stmt::Reject => {
            let data = attrs(|b| {
                b.append_attr_u32_be(1, 0); // ICMP unreachable
                b.append_attr_u8(2, if family == Family::Ip { 3 } else { 4 });
            });
            out.push(RawExpr::new("reject", data).into());
        }
        Stmt::Reset => {
            let data = attrs(|b| {
                b.append_attr_u32_be(1, 1);
            });
            out.push(RawExpr::new("reject", data).into());
        }
        Stmt::Verdict(v) => out.push(verdict_expr(v)),
    }
}

/// The statements about interface, protocol and port.
fn append_meta(stmt: &Stmt, out: &mut Vec<Expr>) {
    let reg = Register::R0;
    let port = Expr::Payload { dreg: reg, base: PayloadBase::Transport, offset: 2, len: 2 };
    let mut is = |load: Expr, tests: &[(CmpOp, Vec<u8>)]| {
        out.push(load);
        out.extend(tests.iter().map(|(op, data)| Expr::Cmp { sreg: reg, op: *op, data: data.clone() }));
    };
    match stmt {
        Stmt::FromInterface(name) => {
            let data = match name.strip_suffix('*') {
                Some(beginning) => beginning.as_bytes().to_vec(),
                None => {
                    let mut whole = name.clone().into_bytes();
                    whole.resize(16, 0);
                    whole
                }
            };
            is(Expr::Meta { dreg: reg, key: nl::MetaKey::IifName }, &[(CmpOp::Eq, data)]);
        }
        Stmt::Protocol(p) => {
            is(Expr::Meta { dreg: reg, key: nl::MetaKey::L4Proto }, &[(CmpOp::Eq, vec![*p])])
        }
        Stmt::Port(p) => is(port, &[(CmpOp::Eq, p.to_be_bytes().to_vec())]),
        Stmt::Ports(first, last) => {
            // Network order: the kernel compares bytes.
            let (first, last) = (first.to_be_bytes().to_vec(), last.to_be_bytes().to_vec());
            is(port, &[(CmpOp::Gte, first), (CmpOp::Lte, last)]);
        }
        _ => {}
    }
}

/// The statements about the tracked connection.
fn append_connection(stmt: &Stmt, out: &mut Vec<Expr>) {
    let reg = Register::R0;
    let load = |key| Expr::Ct { dreg: reg, key };
    match stmt {
        Stmt::Reply => {
            out.push(load(nl::CtKey::Direction));
            out.push(Expr::Cmp { sreg: reg, op: CmpOp::Eq, data: vec![1] });
        }
        Stmt::NewConnection | Stmt::Related => {
            out.push(load(nl::CtKey::State));
            bits(Sense::Is, if *stmt == Stmt::Related { 4 } else { 8 }, out);
        }
        Stmt::Translated(sense) => {
            out.push(load(nl::CtKey::Status));
            bits(*sense, 1 << 5, out);
        }
        _ => {}
    }
}

/// The statements that look something up in a set or map.
fn append_lookup(stmt: &Stmt, family: Family, out: &mut Vec<Expr>) {
    match stmt {
        Stmt::InSet(sense, key, set) => {
            load_key(key, family, out);
            let lookup = nl::LookupExpr::new(set, register(KEY_WORD));
            out.push(if *sense == Sense::Is { lookup } else { lookup.invert() }.into());
        }
        Stmt::VerdictMap(key, set) => {
            load_key(key, family, out);
            out.push(nl::LookupExpr::new(set, register(KEY_WORD)).dreg(Register::Verdict).into());
        }
        Stmt::Resolve(key, set) => {
            load_key(key, family, out);
            out.push(nl::LookupExpr::new(set, register(KEY_WORD)).dreg(register(DATA_WORD)).into());
        }
        Stmt::ResolveRandom(modulus, set) => {
            let dreg = register(KEY_WORD);
            out.push(Expr::Numgen { dreg, kind: nl::NumgenKind::Random, modulus: *modulus, offset: 0 });
            out.push(nl::LookupExpr::new(set, dreg).dreg(register(DATA_WORD)).into());
        }
        Stmt::Remember(key, set) => {
            load_key(key, family, out);
            let update = nl::DynsetExpr::new(nl::DynsetOp::Update, set, register(KEY_WORD));
            out.push(update.sreg_data(register(DATA_WORD)).into());
        }
        _ => {}
    }
}

fn verdict_expr(v: &Verdict) -> Expr {
    let (code, chain) = verdict_code(v);
    let data = attrs(|b| {
        b.append_attr_u32_be(nl::NFTA_IMMEDIATE_DREG, 0);
        let nest = b.nest_start(nl::NFTA_IMMEDIATE_DATA);
        let verdict = b.nest_start(nl::NFTA_DATA_VERDICT);
        b.append_attr_u32_be(nl::NFTA_VERDICT_CODE, code.cast_unsigned());
        if let Some(chain) = chain {
            b.append_attr_str(nl::NFTA_VERDICT_CHAIN, chain);
        }
        b.nest_end(verdict);
        b.nest_end(nest);
    });
    RawExpr::new("immediate", data).into()
}
