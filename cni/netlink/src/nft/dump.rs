//! Elements of a set, read from the kernel. One request a set: the library's own way asks for all sets again with
//! every one, which takes minutes with some thousand sets.

use nlink::netlink::nftables as nl;
use nlink::netlink::{AttrIter, MessageBuilder, NetlinkSocket};

use super::wire::{
    NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_LIST_SET,
    NFTA_SET_ELEM_LIST_TABLE, nl_family, verdict_of,
};
use super::{Data, Family};

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Netlink's header, and the one of netfilter after it.
const HEADER: usize = 16;
const NETFILTER_HEADER: usize = 4;

/// Key and data of every element. Fails with `Interrupted` if the set changed meanwhile.
pub(crate) async fn elements(
    socket: &NetlinkSocket,
    family: Family,
    table: &str,
    set: &str,
) -> std::io::Result<Vec<(Vec<u8>, Data)>> {
    let mut request =
        MessageBuilder::new(nl::nft_msg_type(nl::NFT_MSG_GETSETELEM), NLM_F_REQUEST | NLM_F_DUMP);
    request.append(&nl::NfGenMsg::new(nl_family(family)));
    request.append_attr_str(NFTA_SET_ELEM_LIST_TABLE, table);
    request.append_attr_str(NFTA_SET_ELEM_LIST_SET, set);
    let seq = socket.next_seq();
    request.set_seq(seq);
    request.set_pid(socket.pid());
    socket.send(&request.finish()).await.map_err(std::io::Error::other)?;
    let mut out = Vec::new();
    loop {
        let received = socket.recv_msg().await.map_err(std::io::Error::other)?;
        let mut rest = received.as_slice();
        while let Some((Reply { kind, flags, seq: number, body }, after)) = message(rest) {
            rest = after;
            if number != seq {
                continue;
            }
            if flags & NLM_F_DUMP_INTR != 0 {
                return Err(std::io::ErrorKind::Interrupted.into());
            }
            match kind {
                NLMSG_DONE => return Ok(out),
                NLMSG_ERROR => match body.first_chunk::<4>().map(|b| i32::from_ne_bytes(*b)) {
                    Some(0) | None => {}
                    Some(errno) => return Err(std::io::Error::from_raw_os_error(-errno)),
                },
                _ => decode_list(body.get(NETFILTER_HEADER..).unwrap_or_default(), &mut out),
            }
        }
    }
}

struct Reply<'a> {
    kind: u16,
    flags: u16,
    seq: u32,
    body: &'a [u8],
}

/// The first message and what follows it.
fn message(bytes: &[u8]) -> Option<(Reply<'_>, &[u8])> {
    let len = u32::from_ne_bytes(*bytes.first_chunk::<4>()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let flags = u16::from_ne_bytes(bytes.get(6..8)?.try_into().ok()?);
    let seq = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
    let body = bytes.get(HEADER..len)?;
    Some((Reply { kind, flags, seq, body }, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

fn attr(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    AttrIter::new(bytes).find(|(kind, _)| *kind == wanted).map(|(_, payload)| payload)
}

fn decode_list(bytes: &[u8], out: &mut Vec<(Vec<u8>, Data)>) {
    let Some(list) = attr(bytes, NFTA_SET_ELEM_LIST_ELEMENTS) else { return };
    for (_, element) in AttrIter::new(list) {
        let key = attr(element, NFTA_SET_ELEM_KEY).and_then(|k| attr(k, nl::NFTA_DATA_VALUE));
        if let Some(key) = key {
            out.push((key.to_vec(), attr(element, NFTA_SET_ELEM_DATA).map_or(Data::None, decode_data)));
        }
    }
}

fn decode_data(bytes: &[u8]) -> Data {
    if let Some(value) = attr(bytes, nl::NFTA_DATA_VALUE) {
        return Data::Value(value.to_vec());
    }
    let Some(verdict) = attr(bytes, nl::NFTA_DATA_VERDICT) else { return Data::None };
    let code = attr(verdict, nl::NFTA_VERDICT_CODE)
        .and_then(|c| c.first_chunk::<4>().copied())
        .map_or(0, i32::from_be_bytes);
    let chain = attr(verdict, nl::NFTA_VERDICT_CHAIN).unwrap_or_default();
    let chain = String::from_utf8_lossy(chain.strip_suffix(&[0]).unwrap_or(chain)).into_owned();
    Data::Verdict(verdict_of(code, chain))
}
