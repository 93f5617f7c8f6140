//! Service.

mod families;
mod validation;

use knarr_machinery::{Str, names};
use serde_json::{Value, json};

use crate::facts::{AGE, Facts, NAME, PROXY, SELECTOR};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{
    age, each, fill, fill_text, int, is_empty, labels_text, list, map, name, or_none, sub, text, with,
};

static RULES: RuleSet = RuleSet {
    name: names::name_is_dns_label,
    default,
    status: Some(|| json!({"loadBalancer": {}})),
    create: |_, obj| with(obj, "/spec", join_cluster_ips),
    update,
    validate: validation::validate,
    validate_update: Some(validation::validate_update),
    row,
    fields: |obj| {
        vec![
            (Str::from("spec.clusterIP"), text(obj, "/spec/clusterIP").to_string()),
            (Str::from("spec.type"), text(obj, "/spec/type").to_string()),
        ]
    },
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new("", "v1", "Service", "services")
        .namespaced()
        .short(&["svc"])
        .categories(&["all"])
        .sub("proxy", ("", "v1", "ServiceProxyOptions"), PROXY)
        .status()
        .columns(&[
            NAME,
            ("Type", "string", 0, "How the service is exposed."),
            ("Cluster-IP", "string", 0, "Address within the cluster."),
            ("External-IP", "string", 0, "Addresses from outside."),
            ("Port(s)", "string", 0, "Ports of the service."),
            AGE,
            SELECTOR,
        ])
        .selectable(&["spec.clusterIP", "spec.type"])
        .build(&RULES)
}

fn default(obj: &mut Value) {
    with(obj, "/spec", |spec| {
        fill_text(spec, "sessionAffinity", "None");
        if text(spec, "/sessionAffinity") == "None" {
            spec["sessionAffinityConfig"] = Value::Null;
            crate::value::drop_key(spec, "sessionAffinityConfig");
        } else if text(spec, "/sessionAffinity") == "ClientIP" {
            let config = sub(sub(spec, "sessionAffinityConfig"), "clientIP");
            fill(config, "timeoutSeconds", 10_800);
        }
        fill_text(spec, "type", "ClusterIP");
        each(spec, "/ports", |p| {
            fill_text(p, "protocol", "TCP");
            let empty = p.get("targetPort").is_none_or(|t| t.is_null() || t == 0 || t == "");
            if empty {
                p["targetPort"] = p.get("port").cloned().unwrap_or_default();
            }
        });
        let kind = text(spec, "/type").to_string();
        let external = matches!(kind.as_str(), "NodePort" | "LoadBalancer");
        if external || (kind == "ClusterIP" && !list(spec, "/externalIPs").is_empty()) {
            fill_text(spec, "externalTrafficPolicy", "Cluster");
        }
        if kind != "ExternalName" {
            fill_text(spec, "internalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            fill(spec, "allocateLoadBalancerNodePorts", true);
        }
    });
    if text(obj, "/spec/type") == "LoadBalancer" {
        each(obj, "/status/loadBalancer/ingress", |i| {
            if !text(i, "/ip").is_empty() {
                fill(i, "ipMode", "VIP");
            }
        });
    }
}

/// A client that knows only `clusterIP` means `clusterIPs` with it.
fn join_cluster_ips(spec: &mut Value) {
    let one = text(spec, "/clusterIP").to_string();
    if !one.is_empty() && list(spec, "/clusterIPs").is_empty() {
        spec["clusterIPs"] = json!([one]);
    }
}

/// What was allocated stays when the new document leaves it out.
fn update(ctx: &Ctx<'_>, obj: &mut Value, old: &Value) {
    if ctx.subresource.is_some() {
        return;
    }
    let (new_kind, old_kind) = (text(obj, "/spec/type").to_string(), text(old, "/spec/type"));
    let before = old.get("spec").cloned().unwrap_or_default();
    with(obj, "/spec", |spec| {
        let (one, was) = (text(spec, "/clusterIP").to_string(), text(&before, "/clusterIP"));
        let many = list(spec, "/clusterIPs").to_vec();
        // A client that knows only clusterIP clears or changes both with it.
        if one.is_empty()
            && !was.is_empty()
            && many == list(&before, "/clusterIPs")
            && new_kind == "ExternalName"
        {
            crate::value::drop_key(spec, "clusterIPs");
        } else if one != was && !one.is_empty() && (many.is_empty() || many == list(&before, "/clusterIPs")) {
            spec["clusterIPs"] = json!([one]);
        }
        if new_kind != "ExternalName" && old_kind != "ExternalName" {
            for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if is_empty(spec.get(key)) {
                    crate::ruleset::keep(spec, &before, key);
                }
            }
        }
        if new_kind == "ExternalName" && old_kind != "ExternalName" {
            for key in [
                "clusterIP",
                "clusterIPs",
                "ipFamilies",
                "ipFamilyPolicy",
                "internalTrafficPolicy",
                "externalTrafficPolicy",
            ] {
                crate::value::drop_key(spec, key);
            }
        }
        join_cluster_ips(spec);
        let with_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
        if with_ports(&new_kind) && with_ports(old_kind) {
            keep_node_ports(spec, &before);
            if int(spec, "/healthCheckNodePort").unwrap_or(0) == 0 && new_kind == "LoadBalancer" {
                crate::ruleset::keep(spec, &before, "healthCheckNodePort");
            }
        } else if !with_ports(&new_kind) && with_ports(old_kind) {
            drop_same_node_ports(spec, &before);
        }
    });
}

fn port_key(p: &Value) -> (i64, String) {
    (int(p, "/port").unwrap_or(0), text(p, "/protocol").to_string())
}

fn keep_node_ports(spec: &mut Value, before: &Value) {
    let mut used: Vec<i64> =
        list(spec, "/ports").iter().filter_map(|p| int(p, "/nodePort")).filter(|n| *n != 0).collect();
    let known: Vec<((i64, String), i64)> =
        list(before, "/ports").iter().map(|p| (port_key(p), int(p, "/nodePort").unwrap_or(0))).collect();
    each(spec, "/ports", |p| {
        if int(p, "/nodePort").unwrap_or(0) != 0 {
            return;
        }
        let key = port_key(p);
        if let Some((_, n)) = known.iter().find(|(k, n)| *k == key && *n != 0 && !used.contains(n)) {
            p["nodePort"] = (*n).into();
            used.push(*n);
        }
    });
}

/// A service that stops having node ports drops those it had.
fn drop_same_node_ports(spec: &mut Value, before: &Value) {
    let known: Vec<i64> = list(before, "/ports").iter().filter_map(|p| int(p, "/nodePort")).collect();
    each(spec, "/ports", |p| {
        if int(p, "/nodePort").is_some_and(|n| known.contains(&n)) {
            crate::value::drop_key(p, "nodePort");
        }
    });
    crate::value::drop_key(spec, "externalTrafficPolicy");
    crate::value::drop_key(spec, "healthCheckNodePort");
    crate::value::drop_key(spec, "allocateLoadBalancerNodePorts");
}

fn external_ip(obj: &Value) -> String {
    let ips: Vec<&str> = list(obj, "/spec/externalIPs").iter().filter_map(Value::as_str).collect();
    match text(obj, "/spec/type") {
        "ClusterIP" | "NodePort" => {
            if ips.is_empty() {
                "<none>".to_string()
            } else {
                ips.join(",")
            }
        }
        "LoadBalancer" => {
            let balancer = crate::networking::ingress::ingress_addresses(obj);
            let mut all: Vec<&str> = balancer.split(',').filter(|s| !s.is_empty()).collect();
            all.extend(ips);
            if all.is_empty() { "<pending>".to_string() } else { all.join(",") }
        }
        "ExternalName" => text(obj, "/spec/externalName").to_string(),
        _ => "<unknown>".to_string(),
    }
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let ports: Vec<String> = list(obj, "/spec/ports")
        .iter()
        .map(|p| {
            let (port, protocol) = (int(p, "/port").unwrap_or(0), text(p, "/protocol"));
            match int(p, "/nodePort").filter(|n| *n > 0) {
                Some(n) => format!("{port}:{n}/{protocol}"),
                None => format!("{port}/{protocol}"),
            }
        })
        .collect();
    vec![
        name(obj),
        text(obj, "/spec/type").into(),
        or_none(text(obj, "/spec/clusterIP")),
        external_ip(obj).into(),
        or_none(ports.join(",")),
        age(obj, now),
        labels_text(map(obj, "/spec/selector")).into(),
    ]
}
