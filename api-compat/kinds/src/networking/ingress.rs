//! Ingress.

use knarr_machinery::{FieldError, Path, names};
use serde_json::{Value, json};

use crate::check::{self, Errors};
use crate::facts::{AGE, Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{age, int, list, name, or_none, text};

static RULES: RuleSet = RuleSet { status: Some(|| json!({"loadBalancer": {}})), validate, row, ..PLAIN };

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "Ingress", "ingresses")
        .namespaced()
        .short(&["ing"])
        .status()
        .generation()
        .columns(&[
            NAME,
            ("Class", "string", 0, "Class that serves the ingress."),
            ("Hosts", "string", 0, "Hosts that are matched."),
            ("Address", "string", 0, "Addresses of the load balancer."),
            ("Ports", "string", 0, "Ports that are open."),
            AGE,
        ])
        .build(&RULES)
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let backend = obj.pointer("/spec/defaultBackend").filter(|b| !b.is_null());
    if list(obj, "/spec/rules").is_empty() && backend.is_none() {
        errors.push(FieldError::invalid(
            &spec,
            obj.get("spec").cloned().unwrap_or_default(),
            "either `defaultBackend` or `rules` must be specified",
        ));
    }
    if let Some(b) = backend {
        validate_backend(&mut errors, b, &spec.child("defaultBackend"));
    }
    for (i, tls) in list(obj, "/spec/tls").iter().enumerate() {
        let path = spec.child("tls").index(i);
        for (j, host) in list(tls, "/hosts").iter().filter_map(Value::as_str).enumerate() {
            validate_host(&mut errors, host, &path.child("hosts").index(j));
        }
        let secret = text(tls, "/secretName");
        if !secret.is_empty() {
            check::dns_subdomain(&mut errors, secret, &path.child("secretName"));
        }
    }
    for (i, rule) in list(obj, "/spec/rules").iter().enumerate() {
        let path = spec.child("rules").index(i);
        let host = text(rule, "/host");
        if !host.is_empty() {
            if host.parse::<std::net::IpAddr>().is_ok() {
                errors.push(FieldError::invalid(
                    &path.child("host"),
                    host,
                    "must be a DNS name, not an IP address",
                ));
            } else {
                validate_host(&mut errors, host, &path.child("host"));
            }
        }
        if let Some(http) = rule.get("http").filter(|h| !h.is_null()) {
            validate_paths(&mut errors, list(http, "/paths"), &path.child("http").child("paths"));
        }
    }
    let class = text(obj, "/spec/ingressClassName");
    if !class.is_empty() {
        check::dns_subdomain(&mut errors, class, &spec.child("ingressClassName"));
        if obj.pointer("/metadata/annotations/kubernetes.io~1ingress.class").is_some() {
            let path = Path::new("metadata").child("annotations").key("kubernetes.io/ingress.class");
            errors.push(FieldError::invalid(
                &path,
                text(obj, "/metadata/annotations/kubernetes.io~1ingress.class"),
                "can not be set when the class field is also set",
            ));
        }
    }
    errors
}

fn validate_host(errors: &mut Errors, host: &str, path: &Path) {
    let messages = if host.contains('*') {
        names::is_wildcard_dns1123_subdomain(host)
    } else {
        names::is_dns1123_subdomain(host)
    };
    check::names(errors, messages, host.into(), path);
}

fn validate_paths(errors: &mut Errors, paths: &[Value], at: &Path) {
    if paths.is_empty() {
        errors.push(FieldError::required(at, ""));
    }
    for (i, item) in paths.iter().enumerate() {
        let here = at.index(i);
        let (path, kind) = (text(item, "/path"), text(item, "/pathType"));
        match kind {
            "" => errors.push(FieldError::required(&here.child("pathType"), "pathType must be specified")),
            "Exact" | "Prefix" => {
                if !path.starts_with('/') {
                    errors.push(FieldError::invalid(&here.child("path"), path, "must be an absolute path"));
                }
                for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                    if path.contains(bad) {
                        errors.push(FieldError::invalid(
                            &here.child("path"),
                            path,
                            format!("must not contain '{bad}'"),
                        ));
                    }
                }
                for bad in ["/..", "/."] {
                    if path.ends_with(bad) {
                        errors.push(FieldError::invalid(
                            &here.child("path"),
                            path,
                            format!("cannot end with '{bad}'"),
                        ));
                    }
                }
            }
            "ImplementationSpecific" => {
                if !path.is_empty() && !path.starts_with('/') {
                    errors.push(FieldError::invalid(&here.child("path"), path, "must be an absolute path"));
                }
            }
            other => errors.push(FieldError::not_supported(
                &here.child("pathType"),
                other,
                &["Exact", "ImplementationSpecific", "Prefix"],
            )),
        }
        validate_backend(errors, item.get("backend").unwrap_or(&Value::Null), &here.child("backend"));
    }
}

fn validate_backend(errors: &mut Errors, backend: &Value, path: &Path) {
    let given = |key: &str| backend.get(key).filter(|v| !v.is_null());
    match (given("resource"), given("service")) {
        (Some(_), Some(_)) => {
            errors.push(FieldError::invalid(path, "", "cannot set both resource and service backends"))
        }
        (Some(resource), None) => {
            for key in ["kind", "name"] {
                if text(resource, &format!("/{key}")).is_empty() {
                    let detail = if key == "kind" { "kind is required" } else { "name is required" };
                    errors.push(FieldError::required(&path.child("resource").child(key), detail));
                }
            }
        }
        (None, Some(service)) => {
            let at = path.child("service");
            let given = text(service, "/name");
            if given.is_empty() {
                errors.push(FieldError::required(&at.child("name"), ""));
            } else {
                check::names(errors, names::is_dns1035_label(given), given.into(), &at.child("name"));
            }
            let (port, port_name) = (int(service, "/port/number").unwrap_or(0), text(service, "/port/name"));
            match (port, port_name.is_empty()) {
                (0, true) => {
                    errors.push(FieldError::required(&path.child("port"), "port name or number is required"))
                }
                (0, false) => check::names(
                    errors,
                    names::is_valid_port_name(port_name),
                    port_name.into(),
                    &at.child("port").child("name"),
                ),
                (n, true) => check::port(errors, n, &at.child("port").child("number")),
                (_, false) => {
                    errors.push(FieldError::invalid(path, "", "cannot set both port name & port number"))
                }
            }
        }
        (None, None) => errors.push(FieldError::required(path, "port name or number is required")),
    }
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let hosts: Vec<&str> =
        list(obj, "/spec/rules").iter().map(|r| text(r, "/host")).filter(|h| !h.is_empty()).collect();
    let hosts = match hosts.len() {
        0 => "*".to_string(),
        n if n > 3 => format!("{} + {} more...", hosts[..3].join(","), n - 3),
        _ => hosts.join(","),
    };
    let ports = if list(obj, "/spec/tls").is_empty() { "80" } else { "80, 443" };
    vec![
        name(obj),
        or_none(text(obj, "/spec/ingressClassName")),
        hosts.into(),
        ingress_addresses(obj).into(),
        ports.into(),
        age(obj, now),
    ]
}

/// Addresses of a load balancer status.
pub(crate) fn ingress_addresses(obj: &Value) -> String {
    let mut all: Vec<&str> = Vec::new();
    for item in list(obj, "/status/loadBalancer/ingress") {
        let ip = text(item, "/ip");
        let address = if ip.is_empty() { text(item, "/hostname") } else { ip };
        if !address.is_empty() && !all.contains(&address) {
            all.push(address);
        }
    }
    all.sort_unstable();
    all.join(",")
}
