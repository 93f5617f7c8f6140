//! URLs, addresses and networks.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::Outcome;
use crate::error::EvalError;
use crate::value::Val;

/// A URL in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    scheme: String,
    host: String,
    path: String,
    query: String,
}

impl Url {
    /// An absolute URI or an absolute path.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let failed =
            |why: &str| Err(format!("URL parse error during conversion from string: parse {text:?}: {why}"));
        if text.is_empty() {
            return failed("empty url");
        }
        if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return failed("net/url: invalid control character in URL");
        }
        let (scheme, rest) = match text.split_once(':') {
            _ if text.starts_with('/') => ("", text),
            Some((scheme, rest)) if is_scheme(scheme) => (scheme, rest),
            Some(("", _)) => return failed("missing protocol scheme"),
            _ => return failed("invalid URI for request"),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, path) = match rest.strip_prefix("//") {
            Some(after) => {
                let end = after.find('/').unwrap_or(after.len());
                (&after[..end], &after[end..])
            }
            None => ("", rest),
        };
        let host = host.rsplit_once('@').map_or(host, |(_, h)| h);
        if host.contains([' ', '<', '>', '"', '\\']) {
            return failed(&format!(
                "invalid character {:?} in host name",
                host.chars().find(|c| " <>\"\\".contains(*c)).unwrap_or(' ').to_string()
            ));
        }
        let port = port_of(host);
        if !port.bytes().all(|b| b.is_ascii_digit()) {
            return failed(&format!("invalid port {:?} after host", format!(":{port}")));
        }
        Ok(Self {
            scheme: scheme.to_lowercase(),
            host: host.to_string(),
            path: path.to_string(),
            query: query.split('#').next().unwrap_or("").to_string(),
        })
    }
}

fn is_scheme(s: &str) -> bool {
    let mut bytes = s.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

fn port_of(host: &str) -> &str {
    match host.rfind(':') {
        Some(at) if !host[at..].contains(']') => &host[at + 1..],
        _ => "",
    }
}

fn hostname_of(host: &str) -> &str {
    let bare = match host.rfind(':') {
        Some(at) if !host[at..].contains(']') => &host[..at],
        _ => host,
    };
    bare.trim_start_matches('[').trim_end_matches(']')
}

fn unescape_query(text: &str) -> String {
    let mut out = Vec::new();
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let hex = || {
            std::str::from_utf8(bytes.get(i + 1..i + 3)?).ok().and_then(|h| u8::from_str_radix(h, 16).ok())
        };
        match bytes[i] {
            b'+' => out.push(b' '),
            b'%' => {
                if let Some(b) = hex() {
                    out.push(b);
                    i += 2;
                } else {
                    out.push(b'%');
                }
            }
            b => out.push(b),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// An address without zone; IPv4 in IPv6 clothes is refused, as in Kubernetes.
fn parse_ip(s: &str) -> Result<IpAddr, String> {
    let failed = |why: &str| format!("IP Address {s:?} parse error during conversion from string: {why}");
    if s.contains('%') {
        return Err(failed("IP address with zone value is not allowed"));
    }
    match s.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            Err(failed("IPv4-mapped IPv6 address is not allowed"))
        }
        Ok(ip) => Ok(ip),
        Err(_) => Err(format!(
            "IP Address {s:?} parse error during conversion from string: ParseAddr({s:?}): unable to parse IP"
        )),
    }
}

fn parse_cidr(s: &str) -> Result<(IpAddr, u8), String> {
    let failed = || {
        format!("network address parse error during conversion from string: netip.ParsePrefix({s:?}): no '/'")
    };
    let (ip, bits) = s.split_once('/').ok_or_else(failed)?;
    let ip = parse_ip(ip)?;
    let max = if ip.is_ipv4() { 32 } else { 128 };
    let digits = !bits.is_empty()
        && bits.bytes().all(|b| b.is_ascii_digit())
        && (bits.len() == 1 || !bits.starts_with('0'));
    bits.parse::<u8>()
        .ok()
        .filter(|b| digits && *b <= max)
        .map(|b| (ip, b))
        .ok_or_else(|| format!("network address parse error during conversion from string: netip.ParsePrefix({s:?}): prefix length out of range"))
}

fn mask(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let keep = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & keep))
        }
        IpAddr::V6(v6) => {
            let keep = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & keep))
        }
    }
}

fn contains(net: (IpAddr, u8), ip: IpAddr) -> bool {
    net.0.is_ipv4() == ip.is_ipv4() && mask(net.0, net.1) == mask(ip, net.1)
}

pub(crate) fn call<'a>(name: &str, member: bool, args: &[Val<'a>]) -> Outcome<'a> {
    match args {
        [Val::Url(url)] => url_part(name, url),
        [Val::Ip(ip)] => address(name, *ip),
        [Val::Cidr(ip, bits), rest @ ..] => network(name, (*ip, *bits), rest),
        [Val::String(s)] if !member => match name {
            "url" => Url::parse(s).map(|u| Val::Url(Arc::new(u))).map_err(EvalError::Failed),
            "isURL" => Ok(Val::Bool(Url::parse(s).is_ok())),
            "ip" => parse_ip(s).map(Val::Ip).map_err(EvalError::Failed),
            "isIP" => Ok(Val::Bool(parse_ip(s).is_ok())),
            "ip.isCanonical" => {
                let ip = parse_ip(s).map_err(EvalError::Failed)?;
                Ok(Val::Bool(ip.to_string() == s.as_ref()))
            }
            "cidr" => parse_cidr(s).map(|(ip, b)| Val::Cidr(ip, b)).map_err(EvalError::Failed),
            "isCIDR" => Ok(Val::Bool(parse_cidr(s).is_ok())),
            _ => Err(EvalError::overload()),
        },
        _ => Err(EvalError::overload()),
    }
}

fn url_part<'a>(name: &str, url: &Url) -> Outcome<'a> {
    Ok(match name {
        "getScheme" => Val::string(url.scheme.clone()),
        "getHost" => Val::string(url.host.clone()),
        "getHostname" => Val::string(hostname_of(&url.host)),
        "getPort" => Val::string(port_of(&url.host)),
        "getEscapedPath" => Val::string(url.path.clone()),
        "getQuery" => {
            let mut map: BTreeMap<String, Vec<Val<'a>>> = BTreeMap::new();
            for pair in url.query.split('&').filter(|p| !p.is_empty()) {
                let (k, v) = pair.split_once('=').unwrap_or((pair, ""));
                map.entry(unescape_query(k)).or_default().push(Val::string(unescape_query(v)));
            }
            let entries = map.into_iter().map(|(k, v)| (format!("s{k}"), (Val::string(k), Val::list(v))));
            Val::Map(Arc::new(entries.collect()))
        }
        _ => return Err(EvalError::overload()),
    })
}

fn address<'a>(name: &str, ip: IpAddr) -> Outcome<'a> {
    let local_unicast = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    };
    let local_multicast = match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    };
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    Ok(match name {
        "family" => Val::Int(if ip.is_ipv4() { 4 } else { 6 }),
        "isUnspecified" => Val::Bool(ip.is_unspecified()),
        "isLoopback" => Val::Bool(ip.is_loopback()),
        "isLinkLocalMulticast" => Val::Bool(local_multicast),
        "isLinkLocalUnicast" => Val::Bool(local_unicast),
        "isGlobalUnicast" => Val::Bool(
            !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || local_unicast || broadcast),
        ),
        _ => return Err(EvalError::overload()),
    })
}

fn network<'a>(name: &str, net: (IpAddr, u8), rest: &[Val<'a>]) -> Outcome<'a> {
    Ok(match (name, rest) {
        ("containsIP", [Val::Ip(ip)]) => Val::Bool(contains(net, *ip)),
        ("containsIP", [Val::String(s)]) => Val::Bool(contains(net, parse_ip(s).map_err(EvalError::Failed)?)),
        ("containsCIDR", [Val::Cidr(ip, bits)]) => Val::Bool(net.1 <= *bits && contains(net, *ip)),
        ("containsCIDR", [Val::String(s)]) => {
            let (ip, bits) = parse_cidr(s).map_err(EvalError::Failed)?;
            Val::Bool(net.1 <= bits && contains(net, ip))
        }
        ("ip", []) => Val::Ip(net.0),
        ("masked", []) => Val::Cidr(mask(net.0, net.1), net.1),
        ("prefixLength", []) => Val::Int(net.1.into()),
        _ => return Err(EvalError::overload()),
    })
}
