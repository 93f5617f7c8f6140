//! Validation of services.

use std::collections::BTreeSet;
use std::net::IpAddr;

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use super::families;
use crate::check::{self, Errors};
use crate::discovery::endpointslice::endpoint_ip;
use crate::kind::Ctx;
use crate::value::{go_form, int, is_empty, list, text};

/// The only address is `None`.
pub(super) fn is_headless(obj: &Value) -> bool {
    matches!(list(obj, "/spec/clusterIPs"), [one] if one == "None")
}

/// Whether clients outside of the cluster may come in.
fn is_exposed(obj: &Value) -> bool {
    match text(obj, "/spec/type") {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => !list(obj, "/spec/externalIPs").is_empty(),
        _ => false,
    }
}

/// Whether load balancers ask the nodes which of them have endpoints.
fn needs_health_port(obj: &Value) -> bool {
    text(obj, "/spec/type") == "LoadBalancer" && text(obj, "/spec/externalTrafficPolicy") == "Local"
}

fn field<'a>(obj: &'a Value, key: &str) -> Option<&'a Value> {
    obj.get("spec")?.get(key).filter(|v| !v.is_null())
}

/// All errors of a service with its defaults.
pub(super) fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Errors {
    validate_with(obj, None)
}

fn validate_with(obj: &Value, old: Option<&Value>) -> Errors {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let kind = text(obj, "/spec/type");
    let headless = is_headless(obj);
    topology(&mut errors, obj);
    let ports = list(obj, "/spec/ports");
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required(&spec.child("ports"), ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.push(FieldError::invalid(&spec.child("clusterIPs").index(0), "None", detail));
        }
        "ExternalName" => external_name(&mut errors, obj, &spec),
        _ => {}
    }
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, p) in ports.iter().enumerate() {
        port(&mut errors, p, ports.len() > 1, &mut seen, &spec.child("ports").index(i));
    }
    check::labels(&mut errors, obj.pointer("/spec/selector"), &spec.child("selector"));
    session(&mut errors, obj, &spec);
    families::validate(&mut errors, obj, old, &spec);
    external_ips(&mut errors, obj, old, &spec.child("externalIPs"));
    let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    check::one_of(&mut errors, kind, &spec.child("type"), &types, Some(""));
    duplicates(&mut errors, ports, kind, &spec);
    source_ranges(&mut errors, obj, old, kind, &spec);
    balancer(&mut errors, obj, kind, &spec);
    traffic(&mut errors, obj, kind, &spec);
    errors
}

/// The old and the new annotation say the same.
fn topology(errors: &mut Errors, obj: &Value) {
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    const MODE: &str = "service.kubernetes.io/topology-mode";
    let annotation = |key: &str| obj.get("metadata")?.get("annotations")?.get(key)?.as_str();
    if let (Some(mode), Some(hints)) = (annotation(MODE), annotation(HINTS))
        && mode != hints
    {
        let at = Path::new("metadata").child("annotations").key(MODE);
        let detail = format!("must match annotations[{HINTS}] when both are specified");
        errors.push(FieldError::invalid(&at, mode, detail));
    }
}

fn external_name(errors: &mut Errors, obj: &Value, spec: &Path) {
    for key in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if !is_empty(field(obj, key)) {
            errors.push(FieldError::forbidden(&spec.child(key), "may not be set for ExternalName services"));
        }
    }
    let given = text(obj, "/spec/externalName");
    let given = given.strip_suffix('.').unwrap_or(given);
    if given.is_empty() {
        errors.push(FieldError::required(&spec.child("externalName"), ""));
    } else {
        check::dns_subdomain(errors, given, &spec.child("externalName"));
    }
}

fn port<'a>(errors: &mut Errors, p: &'a Value, needs_name: bool, seen: &mut BTreeSet<&'a str>, path: &Path) {
    let name = text(p, "/name");
    if name.is_empty() {
        if needs_name {
            errors.push(FieldError::required(&path.child("name"), ""));
        }
    } else {
        check::dns_label(errors, name, &path.child("name"));
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&path.child("name"), name));
        }
    }
    check::port(errors, int(p, "/port").unwrap_or(0), &path.child("port"));
    check::protocol(errors, text(p, "/protocol"), &path.child("protocol"));
    check::port_or_name(errors, p.get("targetPort"), &path.child("targetPort"));
    if let Some(app) = p.get("appProtocol").and_then(Value::as_str) {
        check::qualified_name(errors, app, &path.child("appProtocol"));
    }
}

fn duplicates(errors: &mut Errors, ports: &[Value], kind: &str, spec: &Path) {
    let mut node_ports: BTreeSet<(&str, i64)> = BTreeSet::new();
    let mut seen: BTreeSet<(&str, i64)> = BTreeSet::new();
    for (i, p) in ports.iter().enumerate() {
        let at = spec.child("ports").index(i);
        let protocol = text(p, "/protocol");
        let node_port = int(p, "/nodePort").filter(|n| *n != 0);
        if node_port.is_some() && kind == "ClusterIP" {
            let detail = "may not be used when `type` is 'ClusterIP'";
            errors.push(FieldError::forbidden(&at.child("nodePort"), detail));
        }
        if let Some(n) = node_port.filter(|n| !node_ports.insert((protocol, *n))) {
            errors.push(FieldError::duplicate(&at.child("nodePort"), n));
        }
        let number = int(p, "/port").unwrap_or(0);
        if !seen.insert((protocol, number)) {
            // Upstream shows a port that has only these two.
            let key = serde_json::json!({"protocol": protocol, "port": number});
            let fields = [
                ("Name", "name", "\"\""),
                ("Protocol", "protocol", "\"\""),
                ("AppProtocol", "appProtocol", "null"),
                ("Port", "port", "0"),
                ("TargetPort", "targetPort", "0"),
                ("NodePort", "nodePort", "0"),
            ];
            let shown = go_form(&key, &fields);
            errors.push(FieldError::duplicate(&at, key).shown_as(shown));
        }
    }
}

fn session(errors: &mut Errors, obj: &Value, spec: &Path) {
    let affinity = text(obj, "/spec/sessionAffinity");
    check::one_of(errors, affinity, &spec.child("sessionAffinity"), &["ClientIP", "None"], Some(""));
    let config = field(obj, "sessionAffinityConfig");
    let at = spec.child("sessionAffinityConfig");
    if affinity == "None" && config.is_some() {
        errors.push(FieldError::forbidden(&at, "must not be set when session affinity is None"));
    }
    if affinity != "ClientIP" {
        return;
    }
    let required = "when session affinity type is ClientIP";
    let Some(config) = config else {
        errors.push(FieldError::required(&at, required));
        return;
    };
    let at = at.child("clientIP");
    if config.get("clientIP").is_none_or(Value::is_null) {
        errors.push(FieldError::required(&at, required));
        return;
    }
    let at = at.child("timeoutSeconds");
    match int(config, "/clientIP/timeoutSeconds") {
        None => errors.push(FieldError::required(&at, required)),
        Some(n) if n <= 0 || n > 86_400 => {
            errors.push(FieldError::invalid(&at, n, "must be greater than 0 and less than 86400"));
        }
        Some(_) => {}
    }
}

fn external_ips(errors: &mut Errors, obj: &Value, old: Option<&Value>, path: &Path) {
    let before = old.map_or(&[][..], |o| list(o, "/spec/externalIPs"));
    for (i, ip) in list(obj, "/spec/externalIPs").iter().enumerate() {
        let (at, text) = (path.index(i), ip.as_str().unwrap_or_default());
        let messages = if before.contains(ip) { Vec::new() } else { names::is_valid_ip_legacy(text) };
        if let (true, Ok(parsed)) = (messages.is_empty(), text.parse::<IpAddr>()) {
            endpoint_ip(errors, parsed, text, &at);
        }
        check::names(errors, messages, text.into(), &at);
    }
}

/// Clients of a load balancer, as a field or as the annotation of old.
fn source_ranges(errors: &mut Errors, obj: &Value, old: Option<&Value>, kind: &str, spec: &Path) {
    const ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let only = "may only be used when `type` is 'LoadBalancer'";
    let ranges = list(obj, "/spec/loadBalancerSourceRanges");
    if !ranges.is_empty() {
        let at = spec.child("LoadBalancerSourceRanges");
        if kind != "LoadBalancer" {
            errors.push(FieldError::forbidden(&at, only));
        }
        let before = old.map_or(&[][..], |o| list(o, "/spec/loadBalancerSourceRanges"));
        for (i, range) in ranges.iter().enumerate().filter(|(_, r)| !before.contains(r)) {
            let range = range.as_str().unwrap_or_default().trim();
            check::names(errors, names::is_cidr(range), range.into(), &at.index(i));
        }
        return;
    }
    let annotation = |o: &Value| {
        Some(o.get("metadata")?.get("annotations")?.get(ANNOTATION)?.as_str()?.trim().to_string())
    };
    let Some(given) = annotation(obj) else { return };
    let at = Path::new("metadata").child("annotations").key(ANNOTATION);
    if kind != "LoadBalancer" {
        errors.push(FieldError::forbidden(&at, only));
    }
    if given.is_empty() || old.and_then(annotation).as_ref() == Some(&given) {
        return;
    }
    for range in given.split(',').map(str::trim) {
        check::names(errors, names::is_cidr(range), range.into(), &at);
    }
}

/// Fields that only load balancers have.
fn balancer(errors: &mut Errors, obj: &Value, kind: &str, spec: &Path) {
    let only = "may only be used when `type` is 'LoadBalancer'";
    let (ports, class) = (field(obj, "allocateLoadBalancerNodePorts"), field(obj, "loadBalancerClass"));
    if kind != "LoadBalancer" {
        for (key, value) in [("allocateLoadBalancerNodePorts", ports), ("loadBalancerClass", class)] {
            if value.is_some() {
                errors.push(FieldError::forbidden(&spec.child(key), only));
            }
        }
        return;
    }
    if ports.is_none() {
        errors.push(FieldError::required(&Path::new("allocateLoadBalancerNodePorts"), ""));
    }
    if let Some(class) = class.and_then(Value::as_str) {
        check::qualified_name(errors, class, &spec.child("loadBalancerClass"));
    }
}

fn traffic(errors: &mut Errors, obj: &Value, kind: &str, spec: &Path) {
    let external = text(obj, "/spec/externalTrafficPolicy");
    let at = spec.child("externalTrafficPolicy");
    let policies = ["Cluster", "Local"];
    if is_exposed(obj) {
        check::one_of(errors, external, &at, &policies, Some(""));
    } else if !external.is_empty() {
        let detail = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid(&at, external, detail));
    }
    let health = int(obj, "/spec/healthCheckNodePort").unwrap_or(0);
    let at = spec.child("healthCheckNodePort");
    match (needs_health_port(obj), health) {
        (false, 0) => {}
        (false, n) => {
            let detail =
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.push(FieldError::invalid(&at, n, detail));
        }
        (true, 0) => errors.push(FieldError::required(&at, "")),
        (true, n) => check::port(errors, n, &at),
    }
    let at = spec.child("internalTrafficPolicy");
    match field(obj, "internalTrafficPolicy").and_then(Value::as_str) {
        None if matches!(kind, "ClusterIP" | "LoadBalancer" | "NodePort") => {
            errors.push(FieldError::required(&at, ""));
        }
        Some(internal) if !policies.contains(&internal) => {
            errors.push(FieldError::not_supported(&at, internal, &policies));
        }
        _ => {}
    }
    if let Some(d) = field(obj, "trafficDistribution").and_then(Value::as_str) {
        let known = ["PreferClose", "PreferSameNode", "PreferSameZone"];
        if !known.contains(&d) {
            errors.push(FieldError::not_supported(&spec.child("trafficDistribution"), d, &known));
        }
    }
}

/// What may change; the addresses and families follow rules of their own.
pub(super) fn validate_update(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Errors {
    if ctx.subresource == Some("status") {
        return validate_status(obj, old);
    }
    let mut errors = Vec::new();
    families::validate_update(&mut errors, obj, old);
    let spec = Path::new("spec");
    let balances = |v: &Value| text(v, "/spec/type") == "LoadBalancer";
    let class = field(obj, "loadBalancerClass");
    if balances(obj) && balances(old) && class != field(old, "loadBalancerClass") {
        let value = class.cloned().unwrap_or_default();
        let at = spec.child("loadBalancerClass");
        errors.push(FieldError::invalid(&at, value, "may not change once set"));
    }
    let health = |v: &Value| int(v, "/spec/healthCheckNodePort").unwrap_or(0);
    if needs_health_port(obj) && needs_health_port(old) && health(obj) != health(old) {
        errors.push(FieldError::forbidden(&spec.child("healthCheckNodePort"), "field is immutable"));
    }
    errors.extend(validate_with(obj, Some(old)));
    errors
}

/// Addresses that a load balancer reports.
fn validate_status(obj: &Value, old: &Value) -> Errors {
    let mut errors = Vec::new();
    let path = Path::new("status").child("loadBalancer").child("ingress");
    let entries = list(obj, "/status/loadBalancer/ingress");
    if text(obj, "/spec/type") != "LoadBalancer" && !entries.is_empty() {
        let detail = "may only be used when `spec.type` is 'LoadBalancer'";
        return vec![FieldError::forbidden(&path, detail)];
    }
    let before: Vec<&str> =
        list(old, "/status/loadBalancer/ingress").iter().map(|e| text(e, "/ip")).collect();
    for (i, entry) in entries.iter().enumerate() {
        let at = path.index(i);
        let ip = text(entry, "/ip");
        if !ip.is_empty() && !before.contains(&ip) {
            check::names(&mut errors, names::is_valid_ip_legacy(ip), ip.into(), &at.child("ip"));
        }
        let mode_path = at.child("ipMode");
        match entry.get("ipMode").and_then(Value::as_str) {
            None if !ip.is_empty() => {
                errors.push(FieldError::required(&mode_path, "must be specified when `ip` is set"));
            }
            Some(_) if ip.is_empty() => {
                let detail = "may not be specified when `ip` is not set";
                errors.push(FieldError::forbidden(&mode_path, detail));
            }
            Some(mode) if !matches!(mode, "Proxy" | "VIP") => {
                errors.push(FieldError::not_supported(&mode_path, mode, &["Proxy", "VIP"]));
            }
            _ => {}
        }
        let host = text(entry, "/hostname");
        if !host.is_empty() {
            check::dns_subdomain(&mut errors, host, &at.child("hostname"));
            if host.parse::<IpAddr>().is_ok() {
                let detail = "must be a DNS name, not an IP address";
                errors.push(FieldError::invalid(&at.child("hostname"), host, detail));
            }
        }
    }
    errors
}
