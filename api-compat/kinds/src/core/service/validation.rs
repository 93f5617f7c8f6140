//! Validation of services.

use std::collections::BTreeSet;

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use crate::check::{self, Errors};
use crate::kind::Ctx;
use crate::value::{int, is_empty, list, text};

/// All errors of a service with its defaults.
pub(super) fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Errors {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let kind = text(obj, "/spec/type");
    let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    check::one_of(&mut errors, kind, &spec.child("type"), &types, Some(""));
    let headless = text(obj, "/spec/clusterIP") == "None";
    let ports = list(obj, "/spec/ports");
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.push(FieldError::required(&spec.child("ports"), ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless => errors.push(FieldError::invalid(
            &spec.child("clusterIPs").index(0),
            "None",
            format!("may not be set to 'None' for {kind} services"),
        )),
        "ExternalName" => external_name(&mut errors, obj, &spec),
        _ => {}
    }
    let mut names_seen: BTreeSet<&str> = BTreeSet::new();
    for (i, p) in ports.iter().enumerate() {
        port(&mut errors, p, ports.len() > 1, &mut names_seen, &spec.child("ports").index(i));
    }
    duplicates(&mut errors, ports, &spec);
    check::labels(&mut errors, obj.pointer("/spec/selector"), &spec.child("selector"));
    session(&mut errors, obj, &spec);
    for (i, ip) in list(obj, "/spec/externalIPs").iter().filter_map(Value::as_str).enumerate() {
        check::names(
            &mut errors,
            names::is_valid_ip_legacy(ip),
            ip.into(),
            &spec.child("externalIPs").index(i),
        );
    }
    traffic(&mut errors, obj, kind, &spec);
    for (i, ip) in list(obj, "/spec/clusterIPs")
        .iter()
        .filter_map(Value::as_str)
        .enumerate()
        .filter(|(_, ip)| *ip != "None")
    {
        let messages = names::is_valid_ip_legacy(ip);
        if !messages.is_empty() {
            errors.push(FieldError::invalid(&spec.child("clusterIPs").index(i), ip, messages.join("; ")));
        }
    }
    let (one, first) = (text(obj, "/spec/clusterIP"), text(obj, "/spec/clusterIPs/0"));
    if one != first {
        let given = list(obj, "/spec/clusterIPs").to_vec();
        let detail = "first value must match `clusterIP`";
        errors.push(FieldError::invalid(&spec.child("clusterIPs"), given, detail));
    }
    check::one_of(
        &mut errors,
        text(obj, "/spec/ipFamilyPolicy"),
        &spec.child("ipFamilyPolicy"),
        &["PreferDualStack", "RequireDualStack", "SingleStack"],
        None,
    );
    for (i, f) in list(obj, "/spec/ipFamilies").iter().filter_map(Value::as_str).enumerate() {
        check::one_of(&mut errors, f, &spec.child("ipFamilies").index(i), &["IPv4", "IPv6"], None);
    }
    errors
}

fn external_name(errors: &mut Errors, obj: &Value, spec: &Path) {
    for key in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if !is_empty(obj.pointer(&format!("/spec/{key}"))) {
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
    let given = text(p, "/name");
    if given.is_empty() {
        if needs_name {
            errors.push(FieldError::required(&path.child("name"), ""));
        }
    } else {
        check::dns_label(errors, given, &path.child("name"));
        if !seen.insert(given) {
            errors.push(FieldError::duplicate(&path.child("name"), given));
        }
    }
    let number = int(p, "/port").unwrap_or(0);
    check::port(errors, number, &path.child("port"));
    check::one_of(errors, text(p, "/protocol"), &path.child("protocol"), &["SCTP", "TCP", "UDP"], Some(""));
    check::port_or_name(errors, p.get("targetPort"), &path.child("targetPort"));
    let app = text(p, "/appProtocol");
    if !app.is_empty() {
        check::qualified_name(errors, app, &path.child("appProtocol"));
    }
}

fn duplicates(errors: &mut Errors, ports: &[Value], spec: &Path) {
    let mut node_ports: BTreeSet<(&str, i64)> = BTreeSet::new();
    let mut seen: BTreeSet<(&str, i64)> = BTreeSet::new();
    for (i, p) in ports.iter().enumerate() {
        let protocol = text(p, "/protocol");
        if let Some(n) = int(p, "/nodePort").filter(|n| *n != 0)
            && !node_ports.insert((protocol, n))
        {
            errors.push(FieldError::duplicate(&spec.child("ports").index(i).child("nodePort"), n));
        }
        let number = int(p, "/port").unwrap_or(0);
        if !seen.insert((protocol, number)) {
            let at = spec.child("ports").index(i);
            errors
                .push(FieldError::duplicate(&at, serde_json::json!({"protocol": protocol, "port": number})));
        }
    }
}

fn session(errors: &mut Errors, obj: &Value, spec: &Path) {
    let affinity = text(obj, "/spec/sessionAffinity");
    check::one_of(errors, affinity, &spec.child("sessionAffinity"), &["ClientIP", "None"], Some(""));
    let at = spec.child("sessionAffinityConfig").child("clientIP").child("timeoutSeconds");
    if affinity == "ClientIP"
        && let Some(n) =
            int(obj, "/spec/sessionAffinityConfig/clientIP/timeoutSeconds").filter(|n| *n <= 0 || *n > 86_400)
    {
        errors.push(FieldError::invalid(&at, n, "must be greater than 0 and less than 86400"));
    }
}

fn traffic(errors: &mut Errors, obj: &Value, kind: &str, spec: &Path) {
    let external = text(obj, "/spec/externalTrafficPolicy");
    let exposed = matches!(kind, "LoadBalancer" | "NodePort")
        || (kind == "ClusterIP" && !list(obj, "/spec/externalIPs").is_empty());
    let at = spec.child("externalTrafficPolicy");
    if !exposed && !external.is_empty() {
        errors.push(FieldError::invalid(&at, external, "may only be set for externally-accessible services"));
    } else if exposed {
        check::one_of(errors, external, &at, &["Cluster", "Local"], Some(""));
    }
    let internal = text(obj, "/spec/internalTrafficPolicy");
    if kind != "ExternalName" {
        check::one_of(
            errors,
            internal,
            &spec.child("internalTrafficPolicy"),
            &["Cluster", "Local"],
            Some(""),
        );
    }
    if kind != "LoadBalancer" {
        for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if obj.pointer(&format!("/spec/{key}")).is_some_and(|v| !v.is_null()) {
                errors.push(FieldError::forbidden(
                    &spec.child(key),
                    "may only be used when `type` is 'LoadBalancer'",
                ));
            }
        }
    }
    let health = int(obj, "/spec/healthCheckNodePort").unwrap_or(0);
    if health != 0 && !(kind == "LoadBalancer" && external == "Local") {
        errors.push(FieldError::invalid(
            &spec.child("healthCheckNodePort"),
            health,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ));
    }
}

/// The primary address of a service does not change while it has one.
pub(super) fn validate_update(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Errors {
    if ctx.subresource == Some("status") {
        return Vec::new();
    }
    let mut errors = Vec::new();
    let (new_kind, old_kind) = (text(obj, "/spec/type"), text(old, "/spec/type"));
    let before = list(old, "/spec/clusterIPs");
    let now = list(obj, "/spec/clusterIPs");
    if new_kind != "ExternalName"
        && old_kind != "ExternalName"
        && !before.is_empty()
        && now.first() != before.first()
    {
        errors.push(FieldError::invalid(
            &Path::new("spec").child("clusterIPs").index(0),
            now.to_vec(),
            "may not change once set",
        ));
    }
    errors.extend(validate(ctx, obj));
    errors
}
