//! EndpointSlice.

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use crate::check::{self, Errors};
use crate::facts::{AGE, Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{age, each, fill, fill_text, list, name, text};

static RULES: RuleSet = RuleSet {
    default: |obj| {
        each(obj, "/ports", |p| {
            fill(p, "name", "");
            fill_text(p, "protocol", "TCP");
        });
    },
    validate,
    validate_update: Some(validate_update),
    row,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
        .namespaced()
        .generation()
        .columns(&[
            NAME,
            ("AddressType", "string", 0, "Type of the addresses."),
            ("Ports", "string", 0, "Ports of the endpoints."),
            ("Endpoints", "string", 0, "Addresses of the endpoints."),
            AGE,
        ])
        .build(&RULES)
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let kind = text(obj, "/addressType");
    check::one_of(&mut errors, kind, &Path::new("addressType"), &["FQDN", "IPv4", "IPv6"], Some(""));
    let endpoints = list(obj, "/endpoints");
    if endpoints.len() > 1000 {
        errors.push(FieldError::too_many(&Path::new("endpoints"), endpoints.len(), 1000));
        return errors;
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        validate_endpoint(&mut errors, endpoint, kind, &Path::new("endpoints").index(i));
    }
    validate_ports(&mut errors, list(obj, "/ports"), &Path::new("ports"));
    errors
}

fn validate_endpoint(errors: &mut Errors, endpoint: &Value, kind: &str, path: &Path) {
    let addresses = list(endpoint, "/addresses");
    let at = path.child("addresses");
    if addresses.is_empty() {
        errors.push(FieldError::required(&at, "must contain at least 1 address"));
    } else if addresses.len() > 100 {
        errors.push(FieldError::too_many(&at, addresses.len(), 100));
    }
    for (i, address) in addresses.iter().filter_map(Value::as_str).enumerate() {
        validate_address(errors, kind, address, &at.index(i));
    }
    if let Some(node) = endpoint.get("nodeName").and_then(Value::as_str) {
        check::dns_subdomain(errors, node, &path.child("nodeName"));
    }
    let topology = path.child("deprecatedTopology");
    let labels = endpoint.get("deprecatedTopology").and_then(Value::as_object);
    if let Some(n) = labels.map(|l| l.len()).filter(|n| *n > 16) {
        errors.push(FieldError::too_many(&topology, n, 16));
    }
    check::labels(errors, endpoint.get("deprecatedTopology"), &topology);
    const ZONE: &str = "topology.kubernetes.io/zone";
    if labels.is_some_and(|l| l.contains_key(ZONE)) {
        let detail = "reserved key was not removed in conversion";
        errors.push(FieldError::internal(&topology.key(ZONE), detail));
    }
    if let Some(host) = endpoint.get("hostname").and_then(Value::as_str) {
        check::dns_label(errors, host, &path.child("hostname"));
    }
    hints(errors, endpoint, "forZones", &path.child("hints"));
    hints(errors, endpoint, "forNodes", &path.child("hints"));
}

fn validate_address(errors: &mut Errors, kind: &str, address: &str, at: &Path) {
    let parsed = address.parse::<std::net::IpAddr>().ok();
    match (kind, parsed) {
        ("IPv4", Some(ip)) if !ip.is_ipv4() => {
            errors.push(FieldError::invalid(at, address, "must be an IPv4 address"));
        }
        ("IPv6", Some(ip)) if !ip.is_ipv6() => {
            errors.push(FieldError::invalid(at, address, "must be an IPv6 address"));
        }
        ("IPv4" | "IPv6", _) => check::names(errors, names::is_valid_ip(address), address.into(), at),
        ("FQDN", _) => fqdn(errors, address, at),
        _ => {}
    }
    if let ("IPv4" | "IPv6", Some(ip)) = (kind, parsed) {
        endpoint_ip(errors, ip, address, at);
    }
}

/// A domain of at least two labels.
fn fqdn(errors: &mut Errors, address: &str, at: &Path) {
    let name = address.strip_suffix('.').unwrap_or(address);
    let messages = names::is_dns1123_subdomain(name);
    if address.is_empty() {
        errors.push(FieldError::required(at, ""));
    } else if !messages.is_empty() {
        errors.push(FieldError::invalid(at, name, messages.join(",")));
    } else if !name.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(at, name, detail));
    } else if let Some((label, messages)) =
        name.split('.').map(|l| (l, names::is_dns1123_label(l))).find(|(_, m)| !m.is_empty())
    {
        errors.push(FieldError::invalid(at, label, messages.join(",")));
    }
}

/// Zones or nodes that the endpoint is for.
fn hints(errors: &mut Errors, endpoint: &Value, key: &str, path: &Path) {
    let given = list(endpoint, &format!("/hints/{key}"));
    let at = path.child(key);
    if given.len() > 8 {
        errors.push(FieldError::too_many(&at, given.len(), 8));
        return;
    }
    let mut seen: Vec<&str> = Vec::new();
    for (i, hint) in given.iter().enumerate() {
        let (name, here) = (text(hint, "/name"), at.index(i).child("name"));
        if seen.contains(&name) {
            errors.push(FieldError::duplicate(&here, name));
        }
        seen.push(name);
        let messages = match key {
            "forZones" => names::is_label_value(name),
            _ => names::is_dns1123_subdomain(name),
        };
        check::names(errors, messages, name.into(), &here);
    }
}

/// Addresses that may not be endpoints (upstream's ValidateEndpointIP).
pub(crate) fn endpoint_ip(errors: &mut Errors, ip: std::net::IpAddr, text: &str, path: &Path) {
    let link_local = match ip {
        std::net::IpAddr::V4(v4) => v4.is_link_local(),
        std::net::IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    };
    let link_local_multicast = match ip {
        std::net::IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        std::net::IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    };
    for (wrong, what) in [
        (ip.is_unspecified(), format!("may not be unspecified ({text})")),
        (ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_string()),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_string()),
        (
            link_local_multicast,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_string(),
        ),
    ] {
        if wrong {
            errors.push(FieldError::invalid(path, text, what));
        }
    }
}

fn validate_ports(errors: &mut Errors, ports: &[Value], path: &Path) {
    if ports.len() > 20_000 {
        errors.push(FieldError::too_many(path, ports.len(), 20_000));
        return;
    }
    let mut seen: Vec<&str> = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let (here, given) = (path.index(i), text(port, "/name"));
        if !given.is_empty() {
            check::dns_label(errors, given, &here.child("name"));
        }
        if seen.contains(&given) {
            errors.push(FieldError::duplicate(&here.child("name"), given));
        }
        seen.push(given);
        let protocol = text(port, "/protocol");
        check::protocol(errors, protocol, &here.child("protocol"));
        if let Some(app) = port.get("appProtocol").and_then(Value::as_str) {
            check::qualified_name(errors, app, &here.child("appProtocol"));
        }
    }
}

fn validate_update(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = validate(ctx, obj);
    let key = "addressType";
    check::immutable(&mut errors, obj.get(key), old.get(key), &Path::new(key));
    errors
}

/// Three of `all`, then `+ n more...`.
pub(crate) fn first_three(all: &[String], none: &str) -> String {
    match all.len() {
        0 => none.to_string(),
        n if n > 3 => format!("{} + {} more...", all[..3].join(","), n - 3),
        _ => all.join(","),
    }
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let ports: Vec<String> = list(obj, "/ports")
        .iter()
        .map(|p| match p.get("port").and_then(Value::as_i64) {
            Some(n) => n.to_string(),
            None if text(p, "/name").is_empty() => "*".to_string(),
            None => text(p, "/name").to_string(),
        })
        .collect();
    let addresses: Vec<String> = list(obj, "/endpoints")
        .iter()
        .flat_map(|e| list(e, "/addresses"))
        .filter_map(|a| a.as_str().map(str::to_string))
        .collect();
    vec![
        name(obj),
        text(obj, "/addressType").into(),
        first_three(&ports, "<unset>").into(),
        first_three(&addresses, "<unset>").into(),
        age(obj, now),
    ]
}
