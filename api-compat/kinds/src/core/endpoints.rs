//! Endpoints.

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
    let mut errors = Vec::new();
    for (i, subset) in list(obj, "/subsets").iter().enumerate() {
        let at = Path::new("subsets").index(i);
        if list(subset, "/addresses").is_empty() && list(subset, "/notReadyAddresses").is_empty() {
            errors.push(FieldError::required(&at, "must specify `addresses` or `notReadyAddresses`"));
        }
        for key in ["addresses", "notReadyAddresses"] {
            for (j, a) in list(subset, &format!("/{key}")).iter().enumerate() {
                address(&mut errors, a, &at.child(key).index(j));
            }
        }
        let ports = list(subset, "/ports");
        for (j, p) in ports.iter().enumerate() {
            let here = at.child("ports").index(j);
            let given = text(p, "/name");
            if given.is_empty() && ports.len() > 1 {
                errors.push(FieldError::required(&here.child("name"), ""));
            } else if !given.is_empty() {
                check::dns_label(&mut errors, given, &here.child("name"));
            }
            check::port(&mut errors, int(p, "/port").unwrap_or(0), &here.child("port"));
            check::one_of(
                &mut errors,
                text(p, "/protocol"),
                &here.child("protocol"),
                &["SCTP", "TCP", "UDP"],
                Some(""),
            );
        }
    }
    errors
}

fn address(errors: &mut Errors, a: &Value, path: &Path) {
    let ip = text(a, "/ip");
    match ip.parse::<std::net::IpAddr>() {
        Ok(parsed) => endpoint_ip(errors, parsed, ip, &path.child("ip")),
        Err(_) => check::names(errors, names::is_valid_ip_legacy(ip), ip.into(), &path.child("ip")),
    }
    let host = text(a, "/hostname");
    if !host.is_empty() {
        check::dns_label(errors, host, &path.child("hostname"));
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
