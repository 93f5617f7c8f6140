//! NetworkPolicy.

use knarr_machinery::{FieldError, Path, names};
use serde_json::{Value, json};

use crate::check::{self, Errors};
use crate::facts::{AGE, Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{age, each, fill, fill_text, int, is_empty, list, name, selector_text, text, with};

static RULES: RuleSet = RuleSet { default, validate, row, ..PLAIN };

pub(crate) fn kind() -> Kind {
    Facts::new(super::GROUP, "v1", "NetworkPolicy", "networkpolicies")
        .namespaced()
        .short(&["netpol"])
        .generation()
        .columns(&[NAME, ("Pod-Selector", "string", 0, "Pods to which the policy applies."), AGE])
        .build(&RULES)
}

fn default(obj: &mut Value) {
    with(obj, "/spec", |spec| {
        fill(spec, "podSelector", json!({}));
        if is_empty(spec.get("policyTypes")) {
            let egress = !list(spec, "/egress").is_empty();
            spec["policyTypes"] = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        }
        for key in ["/ingress", "/egress"] {
            each(spec, key, |rule| each(rule, "/ports", |p| fill_text(p, "protocol", "TCP")));
        }
    });
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    check::label_selector(&mut errors, obj.pointer("/spec/podSelector"), &spec.child("podSelector"));
    for (key, peers) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in list(obj, &format!("/spec/{key}")).iter().enumerate() {
            let path = spec.child(key).index(i);
            for (j, port) in list(rule, "/ports").iter().enumerate() {
                validate_port(&mut errors, port, &path.child("ports").index(j));
            }
            for (j, peer) in list(rule, &format!("/{peers}")).iter().enumerate() {
                validate_peer(&mut errors, peer, &path.child(peers).index(j));
            }
        }
    }
    let types = list(obj, "/spec/policyTypes");
    if types.len() > 2 {
        errors.push(FieldError::invalid(
            &spec.child("policyTypes"),
            types.to_vec(),
            "may not specify more than two policyTypes",
        ));
        return errors;
    }
    for (i, t) in types.iter().filter_map(Value::as_str).enumerate() {
        check::one_of(&mut errors, t, &spec.child("policyTypes").index(i), &["Ingress", "Egress"], None);
    }
    errors
}

fn validate_port(errors: &mut Errors, port: &Value, path: &Path) {
    let protocol = text(port, "/protocol");
    check::one_of(errors, protocol, &path.child("protocol"), &["TCP", "UDP", "SCTP"], None);
    let given = port.get("port").filter(|p| !p.is_null());
    if given.is_some() {
        check::port_or_name(errors, given, &path.child("port"));
    }
    if let Some(end) = int(port, "/endPort") {
        match given.and_then(Value::as_i64) {
            Some(start) if end < start => errors.push(FieldError::invalid(
                &path.child("endPort"),
                end,
                "must be greater than or equal to `port`",
            )),
            Some(_) => check::port(errors, end, &path.child("endPort")),
            None if given.is_some() => errors.push(FieldError::invalid(
                &path.child("endPort"),
                end,
                "may not be specified when `port` is non-numeric",
            )),
            None => errors.push(FieldError::invalid(
                &path.child("endPort"),
                end,
                "may not be specified when `port` is not specified",
            )),
        }
    }
}

fn validate_peer(errors: &mut Errors, peer: &Value, path: &Path) {
    let given = |key: &str| peer.get(key).filter(|v| !v.is_null());
    let count = ["podSelector", "namespaceSelector", "ipBlock"].iter().filter(|k| given(k).is_some()).count();
    check::label_selector(errors, given("podSelector"), &path.child("podSelector"));
    check::label_selector(errors, given("namespaceSelector"), &path.child("namespaceSelector"));
    if count == 0 {
        errors.push(FieldError::required(path, "must specify a peer"));
    } else if count > 1 && given("ipBlock").is_some() {
        errors.push(FieldError::forbidden(path, "may not specify both ipBlock and another peer"));
    }
    if let Some(block) = given("ipBlock") {
        let at = path.child("ipBlock");
        let cidr = text(block, "/cidr");
        if cidr.is_empty() {
            errors.push(FieldError::required(&at.child("cidr"), ""));
            return;
        }
        check::names(errors, names::is_cidr(cidr), cidr.into(), &at.child("cidr"));
        let outer = cidr.parse::<ipnetwork::IpNetwork>().ok();
        for (i, except) in list(block, "/except").iter().filter_map(Value::as_str).enumerate() {
            let here = at.child("except").index(i);
            let messages = names::is_cidr(except);
            if messages.is_empty()
                && let (Some(outer), Ok(inner)) = (outer, except.parse::<ipnetwork::IpNetwork>())
                && !(outer.contains(inner.network()) && outer.prefix() < inner.prefix())
            {
                let detail = format!("must be a strict subset of `cidr`: {cidr}");
                errors.push(FieldError::invalid(&here, except, detail));
            }
            check::names(errors, messages, except.into(), &here);
        }
    }
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    vec![name(obj), selector_text(obj.pointer("/spec/podSelector")).into(), age(obj, now)]
}
