//! Endpoints.

use std::collections::BTreeSet;

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use crate::check::{self, Errors};
use crate::discovery::endpointslice::{endpoint_ip, first_three};
use crate::facts::{AGE, Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{age, each, fill_text, int, list, name, text};

static RULES: RuleSet = RuleSet {
    default: |obj| each(obj, "/subsets", |s| each(s, "/ports", |p| fill_text(p, "protocol", "TCP"))),
    validate,
    validate_update: Some(validate_update),
    warnings: |_, _, _| {
        vec!["v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".to_string()]
    },
    row,
    create_on_update: true,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    let mut kind = Facts::new("", "v1", "Endpoints", "endpoints")
        .namespaced()
        .short(&["ep"])
        .generation()
        .columns(&[NAME, ("Endpoints", "string", 0, "Addresses and ports."), AGE])
        .build(&RULES);
    if let Some(info) = std::sync::Arc::get_mut(&mut kind.info) {
        info.list_kind = "EndpointsList".into();
        info.has_generation = false;
    }
    kind
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    validate_with(obj, &BTreeSet::new())
}

/// Addresses that were stored already are not judged by the newer rules.
fn validate_update(_ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    let known = list(old, "/subsets")
        .iter()
        .flat_map(|s| list(s, "/addresses").iter().chain(list(s, "/notReadyAddresses")))
        .map(|a| text(a, "/ip"))
        .collect();
    validate_with(obj, &known)
}

fn validate_with(obj: &Value, known: &BTreeSet<&str>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, subset) in list(obj, "/subsets").iter().enumerate() {
        let at = Path::new("subsets").index(i);
        if list(subset, "/addresses").is_empty() && list(subset, "/notReadyAddresses").is_empty() {
            errors.push(FieldError::required(&at, "must specify `addresses` or `notReadyAddresses`"));
        }
        for key in ["addresses", "notReadyAddresses"] {
            for (j, a) in list(subset, &format!("/{key}")).iter().enumerate() {
                address(&mut errors, a, known, &at.child(key).index(j));
            }
        }
        let ports = list(subset, "/ports");
        for (j, p) in ports.iter().enumerate() {
            port(&mut errors, p, ports.len() > 1, &at.child("ports").index(j));
        }
    }
    errors
}

fn port(errors: &mut Errors, p: &Value, needs_name: bool, path: &Path) {
    let name = text(p, "/name");
    if name.is_empty() && needs_name {
        errors.push(FieldError::required(&path.child("name"), ""));
    } else if !name.is_empty() {
        check::dns_label(errors, name, &path.child("name"));
    }
    check::port(errors, int(p, "/port").unwrap_or(0), &path.child("port"));
    check::protocol(errors, text(p, "/protocol"), &path.child("protocol"));
    if let Some(app) = p.get("appProtocol").and_then(Value::as_str) {
        check::qualified_name(errors, app, &path.child("appProtocol"));
    }
}

fn address(errors: &mut Errors, a: &Value, known: &BTreeSet<&str>, path: &Path) {
    let (ip, at) = (text(a, "/ip"), path.child("ip"));
    if !known.contains(ip) {
        check::names(errors, names::is_valid_ip_legacy(ip), ip.into(), &at);
    }
    let host = text(a, "/hostname");
    if !host.is_empty() {
        check::dns_label(errors, host, &path.child("hostname"));
    }
    if let Some(node) = a.get("nodeName").and_then(Value::as_str) {
        check::dns_subdomain(errors, node, &path.child("nodeName"));
    }
    match ip.parse::<std::net::IpAddr>() {
        Ok(parsed) => endpoint_ip(errors, parsed, ip, &at),
        Err(_) if names::is_valid_ip_legacy(ip).iter().any(|m| m.starts_with("must be a valid")) => {
            errors.push(FieldError::invalid(&at, ip, "must be a valid IP address"));
        }
        Err(_) => {}
    }
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let mut all: Vec<String> = Vec::new();
    for subset in list(obj, "/subsets") {
        let ports = list(subset, "/ports");
        for a in list(subset, "/addresses") {
            let ip = text(a, "/ip");
            if ports.is_empty() {
                all.push(ip.to_string());
            }
            for p in ports {
                let port = int(p, "/port").unwrap_or(0);
                all.push(if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") });
            }
        }
    }
    vec![name(obj), first_three(&all, "<none>").into(), age(obj, now)]
}
