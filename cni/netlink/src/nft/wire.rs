//! Wire form: operations to nf_tables messages, and what the kernel reports back to the model.

use nlink::netlink::MessageBuilder;
use nlink::netlink::nftables as nl;
use nlink::netlink::nftables::RawMessage;

use super::expr::expressions;
use super::{Base, ChainKind, Data, Family, FieldType, Hook, Op, Rule, Set, SetData, Verdict};

const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFTA_SET_DATA_LEN: u16 = 7;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_TIMEOUT: u16 = 11;
pub(super) const NFTA_SET_ELEM_KEY: u16 = 1;
pub(super) const NFTA_SET_ELEM_DATA: u16 = 2;
pub(super) const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
pub(super) const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub(super) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFT_SET_MAP: u32 = 0x8;
const NFT_SET_TIMEOUT: u32 = 0x10;
const NFT_SET_EVAL: u32 = 0x20;
const NFT_DATA_VERDICT: u32 = 0xffff_ff00;
/// Elements in one message: a nested attribute holds at most 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 200;

/// nft's own numbers of data types, so that `nft list` prints them well.
fn type_id(t: FieldType, family: Family) -> u32 {
    match (t, family) {
        (FieldType::Address, Family::Ip | Family::Bridge) => 7,
        (FieldType::Address, Family::Ip6) => 8,
        (FieldType::Protocol, _) => 12,
        (FieldType::Port, _) => 13,
        (FieldType::Number, _) => 19,
    }
}

pub(super) fn width(t: FieldType, family: Family) -> u32 {
    match (t, family) {
        (FieldType::Address, Family::Ip6) => 16,
        (FieldType::Address, Family::Ip | Family::Bridge) | (FieldType::Number, _) => 4,
        (FieldType::Protocol, _) => 1,
        (FieldType::Port, _) => 2,
    }
}

/// Type number and length of a concatenation: one field keeps its own length, several are padded to words.
fn layout(fields: &[FieldType], family: Family) -> (u32, u32) {
    if let [one] = fields {
        return (type_id(*one, family), width(*one, family));
    }
    fields.iter().fold((0, 0), |(id, len), f| {
        ((id << 6) | type_id(*f, family), len + width(*f, family).div_ceil(4) * 4)
    })
}

pub(super) fn attrs(build: impl FnOnce(&mut MessageBuilder)) -> Vec<u8> {
    let mut b = MessageBuilder::new(0, 0);
    build(&mut b);
    b.as_bytes().get(16..).map(<[u8]>::to_vec).unwrap_or_default()
}

fn message(msg: u8, family: Family, flags: u16, build: impl FnOnce(&mut MessageBuilder)) -> RawMessage {
    RawMessage::new(msg, nl_family(family)).flags(flags).attrs(attrs(build))
}

/// The family in nlink's terms.
pub(crate) fn nl_family(family: Family) -> nl::Family {
    match family {
        Family::Ip => nl::Family::Ip,
        Family::Ip6 => nl::Family::Ip6,
        Family::Bridge => nl::Family::Bridge,
    }
}

/// The messages of one operation.
pub(crate) fn encode(op: &Op, family: Family, table: &str, set_id: u32) -> Vec<RawMessage> {
    match op {
        Op::AddTable => vec![message(nl::NFT_MSG_NEWTABLE, family, NLM_F_CREATE, |b| {
            b.append_attr_str(nl::NFTA_TABLE_NAME, table);
        })],
        Op::AddSet(name, set) => vec![add_set(family, table, name, set, set_id)],
        Op::AddChain(name, base) => {
            vec![message(nl::NFT_MSG_NEWCHAIN, family, NLM_F_CREATE, |b| {
                b.append_attr_str(nl::NFTA_CHAIN_TABLE, table);
                b.append_attr_str(nl::NFTA_CHAIN_NAME, name);
                if let Some(base) = base {
                    append_base(b, base);
                }
            })]
        }
        Op::ClearChain(name) => vec![message(nl::NFT_MSG_DELRULE, family, 0, |b| {
            b.append_attr_str(nl::NFTA_RULE_TABLE, table);
            b.append_attr_str(nl::NFTA_RULE_CHAIN, name);
        })],
        Op::AddRule(chain, rule) => {
            vec![message(nl::NFT_MSG_NEWRULE, family, NLM_F_CREATE | NLM_F_APPEND, |b| {
                b.append_attr_str(nl::NFTA_RULE_TABLE, table);
                b.append_attr_str(nl::NFTA_RULE_CHAIN, chain);
                nl::write_expressions(b, &expressions(&rule.stmts, family));
                b.append_attr(nl::NFTA_RULE_USERDATA, &comment(&rule.digest));
            })]
        }
        Op::DeleteChain(name) => vec![message(nl::NFT_MSG_DELCHAIN, family, 0, |b| {
            b.append_attr_str(nl::NFTA_CHAIN_TABLE, table);
            b.append_attr_str(nl::NFTA_CHAIN_NAME, name);
        })],
        Op::DeleteSet(name) => vec![message(nl::NFT_MSG_DELSET, family, 0, |b| {
            b.append_attr_str(NFTA_SET_TABLE, table);
            b.append_attr_str(NFTA_SET_NAME, name);
        })],
        Op::AddElements(set, e) => {
            element_messages(nl::NFT_MSG_NEWSETELEM, NLM_F_CREATE, family, table, set, e)
        }
        Op::DeleteElements(set, e) => element_messages(nl::NFT_MSG_DELSETELEM, 0, family, table, set, e),
    }
}

/// libnftnl's rule comment: type 0, length with the closing zero, text.
fn comment(text: &str) -> Vec<u8> {
    let mut out = vec![0, u8::try_from(text.len() + 1).unwrap_or(u8::MAX)];
    out.extend(text.bytes().take(usize::from(u8::MAX) - 1));
    out.push(0);
    out
}

fn append_base(b: &mut MessageBuilder, base: &Base) {
    let nest = b.nest_start(nl::NFTA_CHAIN_HOOK);
    b.append_attr_u32_be(nl::NFTA_HOOK_HOOKNUM, base.hook.number());
    b.append_attr_u32_be(nl::NFTA_HOOK_PRIORITY, base.priority.cast_unsigned());
    b.nest_end(nest);
    b.append_attr_str(
        nl::NFTA_CHAIN_TYPE,
        match base.kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
        },
    );
    b.append_attr_u32_be(nl::NFTA_CHAIN_POLICY, 1);
}

fn add_set(family: Family, table: &str, name: &str, set: &Set, id: u32) -> RawMessage {
    message(nl::NFT_MSG_NEWSET, family, NLM_F_CREATE, |b| {
        b.append_attr_str(NFTA_SET_TABLE, table);
        b.append_attr_str(NFTA_SET_NAME, name);
        let mut flags = if set.data == SetData::None { 0 } else { NFT_SET_MAP };
        if set.timeout_seconds.is_some() {
            flags |= NFT_SET_TIMEOUT | NFT_SET_EVAL;
        }
        b.append_attr_u32_be(NFTA_SET_FLAGS, flags);
        let (key_type, key_len) = layout(&set.key, family);
        b.append_attr_u32_be(NFTA_SET_KEY_TYPE, key_type);
        b.append_attr_u32_be(NFTA_SET_KEY_LEN, key_len);
        match &set.data {
            SetData::None => {}
            SetData::Verdict => b.append_attr_u32_be(NFTA_SET_DATA_TYPE, NFT_DATA_VERDICT),
            SetData::Value(fields) => {
                let (data_type, data_len) = layout(fields, family);
                b.append_attr_u32_be(NFTA_SET_DATA_TYPE, data_type);
                b.append_attr_u32_be(NFTA_SET_DATA_LEN, data_len);
            }
        }
        b.append_attr_u32_be(NFTA_SET_ID, id);
        if let Some(seconds) = set.timeout_seconds {
            b.append_attr_u64_be(NFTA_SET_TIMEOUT, seconds.saturating_mul(1000));
        }
    })
}

fn element_messages(
    msg: u8,
    flags: u16,
    family: Family,
    table: &str,
    set: &str,
    all: &[(Vec<u8>, Data)],
) -> Vec<RawMessage> {
    all.chunks(ELEMENTS_PER_MESSAGE)
        .map(|chunk| {
            message(msg, family, flags, |b| {
                b.append_attr_str(NFTA_SET_ELEM_LIST_TABLE, table);
                b.append_attr_str(NFTA_SET_ELEM_LIST_SET, set);
                let list = b.nest_start(NFTA_SET_ELEM_LIST_ELEMENTS);
                for (key, data) in chunk {
                    append_element(b, key, data);
                }
                b.nest_end(list);
            })
        })
        .collect()
}

fn append_element(b: &mut MessageBuilder, key: &[u8], data: &Data) {
    let elem = b.nest_start(nl::NFTA_LIST_ELEM);
    let nest = b.nest_start(NFTA_SET_ELEM_KEY);
    b.append_attr(nl::NFTA_DATA_VALUE, key);
    b.nest_end(nest);
    match data {
        Data::None => {}
        Data::Value(v) => {
            let nest = b.nest_start(NFTA_SET_ELEM_DATA);
            b.append_attr(nl::NFTA_DATA_VALUE, v);
            b.nest_end(nest);
        }
        Data::Verdict(v) => {
            let nest = b.nest_start(NFTA_SET_ELEM_DATA);
            let verdict = b.nest_start(nl::NFTA_DATA_VERDICT);
            let (code, chain) = verdict_code(v);
            b.append_attr_u32_be(nl::NFTA_VERDICT_CODE, code.cast_unsigned());
            if let Some(chain) = chain {
                b.append_attr_str(nl::NFTA_VERDICT_CHAIN, chain);
            }
            b.nest_end(verdict);
            b.nest_end(nest);
        }
    }
    b.nest_end(elem);
}

pub(super) fn verdict_code(v: &Verdict) -> (i32, Option<&str>) {
    match v {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(c) => (-3, Some(c)),
        Verdict::Goto(c) => (-4, Some(c)),
        Verdict::Return => (-5, None),
    }
}

/// The verdict of a code.
pub(super) fn verdict_of(code: i32, chain: String) -> Verdict {
    match code {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -3 => Verdict::Jump(chain),
        -4 => Verdict::Goto(chain),
        _ => Verdict::Return,
    }
}

/// A set as reported; a shape that is not ours reads back as one that compares unequal to all of ours.
pub(crate) fn decode_set(info: &nl::SetInfo, family: Family) -> Set {
    let fields = |mut id: u32| {
        let mut out = Vec::new();
        while id != 0 {
            let known = [FieldType::Address, FieldType::Protocol, FieldType::Port, FieldType::Number];
            match known.into_iter().find(|t| type_id(*t, family) == id & 0x3f) {
                Some(t) => out.insert(0, t),
                None => return Vec::new(),
            }
            id >>= 6;
        }
        out
    };
    let data = match info.data_type {
        None => SetData::None,
        Some(NFT_DATA_VERDICT) => SetData::Verdict,
        Some(id) => SetData::Value(fields(id)),
    };
    // The kernel keeps milliseconds in jiffies: round to the nearest second.
    let timeout_seconds = info.timeout.map(|t| (t.as_millis() as u64).saturating_add(500) / 1000);
    Set { key: fields(info.key_type), data, timeout_seconds, elements: Default::default() }
}

/// A chain's hook as reported.
pub(crate) fn decode_base(info: &nl::ChainInfo) -> Option<Base> {
    let hook = Hook::from_number(info.hook?)?;
    let kind = if info.chain_type == Some(nl::ChainType::Nat) { ChainKind::Nat } else { ChainKind::Filter };
    Some(Base { kind, hook, priority: info.priority? })
}

/// A rule as reported: its digest, or one that no rule of ours has.
pub(crate) fn decode_rule(info: &nl::RuleInfo) -> Rule {
    Rule {
        stmts: Vec::new(),
        digest: info.comment_text.clone().unwrap_or_else(|| format!("handle {}", info.handle)),
    }
}
