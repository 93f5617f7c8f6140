//! Cluster addresses of services and their families.

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use super::validation::is_headless;
use crate::check::{self, Errors};
use crate::value::{list, text};

fn strings<'a>(obj: &'a Value, pointer: &str) -> Vec<&'a str> {
    list(obj, pointer).iter().filter_map(Value::as_str).collect()
}

/// `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy`.
pub(super) fn validate(errors: &mut Errors, obj: &Value, old: Option<&Value>, spec: &Path) {
    if text(obj, "/spec/type") == "ExternalName" {
        return;
    }
    let ips = strings(obj, "/spec/clusterIPs");
    let path = spec.child("clusterIPs");
    let all = || Value::from(ips.clone());
    let one = text(obj, "/spec/clusterIP");
    match (one.is_empty(), ips.first()) {
        (false, None) => errors.push(FieldError::required(&path, "")),
        (false, Some(first)) if *first != one => {
            errors.push(FieldError::invalid(&path, all(), "first value must match `clusterIP`"));
        }
        (true, Some(_)) => {
            let detail = "must be empty when `clusterIP` is not specified";
            errors.push(FieldError::invalid(&path, all(), detail));
        }
        _ => {}
    }
    let families = strings(obj, "/spec/ipFamilies");
    for (i, family) in families.iter().enumerate() {
        let at = spec.child("ipFamilies").index(i);
        if !matches!(*family, "IPv4" | "IPv6") {
            errors.push(FieldError::not_supported(&at, *family, &["IPv4", "IPv6"]));
        }
        if families[..i].contains(family) {
            errors.push(FieldError::duplicate(&at, *family));
        }
    }
    if let Some(policy) = obj.pointer("/spec/ipFamilyPolicy").and_then(Value::as_str) {
        let known = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        if !known.contains(&policy) {
            errors.push(FieldError::not_supported(&spec.child("ipFamilyPolicy"), policy, &known));
        }
    }
    if !addresses(errors, &ips, old, &path) {
        return;
    }
    let six = |ip: &str| ip.contains(':');
    if ips.len() > 1 && (ips.iter().all(|ip| six(ip)) || !ips.iter().any(|ip| six(ip))) {
        let detail = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(&path, all(), detail));
    }
    if is_headless(obj) {
        return;
    }
    for (i, (ip, family)) in ips.iter().zip(&families).enumerate() {
        if matches!((*family, six(ip)), ("IPv4", true) | ("IPv6", false)) {
            let detail = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
            errors.push(FieldError::invalid(&path.index(i), *ip, detail));
        }
    }
}

/// Whether the addresses are such that more can be said of them.
fn addresses(errors: &mut Errors, ips: &[&str], old: Option<&Value>, path: &Path) -> bool {
    let before = old.map(|o| strings(o, "/spec/clusterIPs")).unwrap_or_default();
    let mut valid = true;
    for (i, ip) in ips.iter().enumerate() {
        if i == 0 && *ip == "None" {
            if ips.len() > 1 {
                valid = false;
                let detail = "'None' must be the first and only value";
                errors.push(FieldError::invalid(path, Value::from(ips.to_vec()), detail));
            }
            continue;
        }
        let messages = if before.contains(ip) { Vec::new() } else { names::is_valid_ip_legacy(ip) };
        valid &= messages.is_empty();
        check::names(errors, messages, (*ip).into(), &path.index(i));
    }
    if ips.len() > 2 {
        errors.push(FieldError::invalid(path, Value::from(ips.to_vec()), "may only hold up to 2 values"));
    }
    valid
}

/// A service may gain or lose its second address and family, but not change the first ones.
pub(super) fn validate_update(errors: &mut Errors, obj: &Value, old: &Value) {
    let named = |v: &Value| text(v, "/spec/type") == "ExternalName";
    if named(obj) || named(old) {
        return;
    }
    let (now, was) = (is_headless(obj), is_headless(old));
    let spec = Path::new("spec");
    let ips = strings(obj, "/spec/clusterIPs");
    if !(now && was) {
        let before = strings(old, "/spec/clusterIPs");
        compare(errors, obj, (&ips, &before), ips.is_empty(), ("clusterIPs", "clusterIP"), &spec);
    }
    if !now && !was {
        let (families, before) = (strings(obj, "/spec/ipFamilies"), strings(old, "/spec/ipFamilies"));
        compare(errors, obj, (&families, &before), ips.is_empty(), ("ipFamilies", "ipFamily"), &spec);
    }
}

fn compare(
    errors: &mut Errors,
    obj: &Value,
    (new, old): (&[&str], &[&str]),
    unset: bool,
    (key, one): (&str, &str),
    spec: &Path,
) {
    let path = spec.child(key);
    let value = Value::from(new.to_vec());
    let fixed = "may not change once set";
    if new.len() == old.len() {
        for (i, _) in old.iter().zip(new).enumerate().filter(|(_, (o, n))| o != n) {
            let at = path.index(if key == "ipFamilies" { 0 } else { i });
            errors.push(FieldError::invalid(&at, value.clone(), fixed));
        }
        return;
    }
    let first = path.index(0);
    if new.len() < old.len() && unset {
        let detail = format!("primary {one} can not be unset");
        errors.push(FieldError::invalid(&first, value.clone(), detail));
    }
    if let (Some(n), Some(o)) = (new.first(), old.first())
        && n != o
    {
        errors.push(FieldError::invalid(&first, value, fixed));
    }
    let policy = obj.pointer("/spec/ipFamilyPolicy").cloned().unwrap_or_default();
    if new.len() == 1 && old.len() > 1 && policy != "SingleStack" {
        let detail = format!("must be set to 'SingleStack' when releasing the secondary {one}");
        errors.push(FieldError::invalid(&spec.child("ipFamilyPolicy"), policy, detail));
    }
}
