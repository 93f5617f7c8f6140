//! Validation of a whole pod spec.

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use super::{affinity, containers, resources, scheduling, security, volumes};
use crate::check::{self, Errors};
use crate::value::{flag, int, list, text};

/// All errors of a pod spec with its defaults filled in.
pub(crate) fn validate_spec(spec: &Value, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let known = volumes::validate(&mut errors, list(spec, "/volumes"), &path.child("volumes"));
    containers::validate_all(&mut errors, spec, &known, path);
    let policy = text(spec, "/restartPolicy");
    check::one_of(
        &mut errors,
        policy,
        &path.child("restartPolicy"),
        &["Always", "OnFailure", "Never"],
        Some(""),
    );
    validate_dns(&mut errors, spec, path);
    check::labels(&mut errors, spec.get("nodeSelector"), &path.child("nodeSelector"));
    security::validate_pod(&mut errors, spec, path);
    if let Some(a) = spec.get("affinity").filter(|a| !a.is_null()) {
        affinity::validate(&mut errors, a, &path.child("affinity"));
    }
    for (i, gate) in list(spec, "/readinessGates").iter().enumerate() {
        let at = path.child("readinessGates").index(i).child("conditionType");
        check::qualified_name(&mut errors, text(gate, "/conditionType"), &at);
    }
    scheduling::validate_spread(
        &mut errors,
        list(spec, "/topologySpreadConstraints"),
        &path.child("topologySpreadConstraints"),
    );
    validate_gates(&mut errors, list(spec, "/schedulingGates"), &path.child("schedulingGates"));
    validate_names(&mut errors, spec, path);
    validate_numbers(&mut errors, spec, path);
    validate_host_aliases(&mut errors, list(spec, "/hostAliases"), &path.child("hostAliases"));
    errors.extend(scheduling::validate_tolerations(list(spec, "/tolerations"), &path.child("tolerations")));
    if let Some(r) = spec.get("resources").filter(|r| !r.is_null()) {
        resources::validate_requirements(&mut errors, r, &path.child("resources"));
    }
    resources::validate_list(&mut errors, spec.get("overhead"), &path.child("overhead"));
    let preemption = text(spec, "/preemptionPolicy");
    check::one_of(
        &mut errors,
        preemption,
        &path.child("preemptionPolicy"),
        &["Never", "PreemptLowerPriority"],
        None,
    );
    check::one_of(
        &mut errors,
        text(spec, "/os/name"),
        &path.child("os").child("name"),
        &["linux", "windows"],
        spec.get("os").filter(|o| !o.is_null()).map(|_| ""),
    );
    validate_claims(&mut errors, spec, path);
    errors
}

fn validate_names(errors: &mut Errors, spec: &Value, path: &Path) {
    for key in ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"] {
        let value = text(spec, &format!("/{key}"));
        if !value.is_empty() {
            check::dns_subdomain(errors, value, &path.child(key));
        }
    }
    for key in ["hostname", "subdomain"] {
        let value = text(spec, &format!("/{key}"));
        if !value.is_empty() {
            check::dns_label(errors, value, &path.child(key));
        }
    }
    let scheduler = text(spec, "/schedulerName");
    if !scheduler.is_empty() {
        check::qualified_name(errors, scheduler, &path.child("schedulerName"));
    }
    if flag(spec, "/setHostnameAsFQDN")
        && flag(spec, "/hostNetwork")
        && !text(spec, "/hostnameOverride").is_empty()
    {
        errors.push(FieldError::forbidden(
            &path.child("setHostnameAsFQDN"),
            "cannot be set when hostnameOverride is set",
        ));
    }
}

fn validate_numbers(errors: &mut Errors, spec: &Value, path: &Path) {
    let max = i64::from(i32::MAX);
    if let Some(n) = int(spec, "/activeDeadlineSeconds").filter(|n| !(1..=max).contains(n)) {
        let at = path.child("activeDeadlineSeconds");
        errors.push(FieldError::invalid(&at, n, names::inclusive_range_error(1, max)));
    }
    match int(spec, "/terminationGracePeriodSeconds") {
        None => errors.push(FieldError::required(&path.child("terminationGracePeriodSeconds"), "")),
        n => check::non_negative(errors, n, &path.child("terminationGracePeriodSeconds")),
    }
    if let Some(n) = int(spec, "/priority").filter(|n| *n > 2_000_001_000) {
        errors.push(FieldError::invalid(
            &path.child("priority"),
            n,
            "must not be above the system priorities",
        ));
    }
}

fn validate_dns(errors: &mut Errors, spec: &Value, path: &Path) {
    let policy = text(spec, "/dnsPolicy");
    let policies = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    check::one_of(errors, policy, &path.child("dnsPolicy"), &policies, Some(""));
    let config = path.child("dnsConfig");
    let servers = list(spec, "/dnsConfig/nameservers");
    if policy == "None" {
        if spec.get("dnsConfig").is_none_or(Value::is_null) {
            errors.push(FieldError::required(&config, "must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if servers.is_empty() {
            errors.push(FieldError::required(
                &config.child("nameservers"),
                "must provide at least one DNS nameserver when `dnsPolicy` is None",
            ));
        }
    }
    if servers.len() > 3 {
        errors.push(FieldError::invalid(
            &config.child("nameservers"),
            servers.to_vec(),
            "must not have more than 3 nameservers",
        ));
    }
    for (i, s) in servers.iter().filter_map(Value::as_str).enumerate() {
        check::names(errors, names::is_valid_ip_legacy(s), s.into(), &config.child("nameservers").index(i));
    }
    let searches = list(spec, "/dnsConfig/searches");
    if searches.len() > 32 {
        errors.push(FieldError::invalid(
            &config.child("searches"),
            searches.to_vec(),
            "must not have more than 32 search paths",
        ));
    }
    if searches.iter().filter_map(Value::as_str).map(|s| s.len() + 1).sum::<usize>() > 2049 {
        errors.push(FieldError::invalid(
            &config.child("searches"),
            searches.to_vec(),
            "must not have more than 2048 characters (including spaces) in the search list",
        ));
    }
    for (i, s) in searches.iter().filter_map(Value::as_str).enumerate().filter(|(_, s)| *s != ".") {
        let s = s.strip_suffix('.').unwrap_or(s);
        check::names(
            errors,
            names::is_dns1123_subdomain_with_underscore(s),
            s.into(),
            &config.child("searches").index(i),
        );
    }
    for (i, o) in list(spec, "/dnsConfig/options").iter().enumerate() {
        if text(o, "/name").is_empty() {
            errors.push(FieldError::required(&config.child("options").index(i), "must not be empty"));
        }
    }
}

fn validate_gates(errors: &mut Errors, gates: &[Value], path: &Path) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, gate) in gates.iter().enumerate() {
        let given = text(gate, "/name");
        let at = path.index(i);
        if given.is_empty() {
            errors.push(FieldError::required(&at, ""));
        } else {
            check::qualified_name(errors, given, &at);
        }
        if seen.contains(&given) {
            errors.push(FieldError::duplicate(&at, given));
        }
        seen.push(given);
    }
}

fn validate_host_aliases(errors: &mut Errors, aliases: &[Value], path: &Path) {
    for (i, alias) in aliases.iter().enumerate() {
        let at = path.index(i);
        let ip = text(alias, "/ip");
        check::names(errors, names::is_valid_ip_legacy(ip), ip.into(), &at.child("ip"));
        for (j, host) in list(alias, "/hostnames").iter().filter_map(Value::as_str).enumerate() {
            check::dns_subdomain(errors, host, &at.child("hostnames").index(j));
        }
    }
}

fn validate_claims(errors: &mut Errors, spec: &Value, path: &Path) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, claim) in list(spec, "/resourceClaims").iter().enumerate() {
        let at = path.child("resourceClaims").index(i);
        let given = text(claim, "/name");
        if given.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        } else if seen.contains(&given) {
            errors.push(FieldError::duplicate(&at.child("name"), given));
        } else {
            check::dns_label(errors, given, &at.child("name"));
        }
        seen.push(given);
        let (a, b) = (text(claim, "/resourceClaimName"), text(claim, "/resourceClaimTemplateName"));
        if a.is_empty() && b.is_empty() {
            errors.push(FieldError::invalid(
                &at,
                given,
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            ));
        } else if !a.is_empty() && !b.is_empty() {
            errors.push(FieldError::invalid(
                &at,
                given,
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ));
        }
    }
}
