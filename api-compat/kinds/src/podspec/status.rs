//! What a write of a pod's status may say.

use std::collections::BTreeSet;
use std::net::IpAddr;

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use super::annotations;
use super::scene::given;
use crate::check::{self, Errors};
use crate::value::{go_form, list, text};

/// Update of `status`.
pub(crate) fn validate_status_update(obj: &Value, old: &Value) -> Errors {
    let mut errors = Vec::new();
    let meta = Path::new("metadata");
    let (new_meta, old_meta) =
        (obj.get("metadata").unwrap_or(&Value::Null), old.get("metadata").unwrap_or(&Value::Null));
    let at = meta.child("annotations");
    annotations::validate_change(&mut errors, new_meta, old_meta, &at);
    let spec = obj.get("spec").unwrap_or(&Value::Null);
    annotations::validate(&mut errors, new_meta, spec, Some(old_meta), &at);
    for (i, c) in list(obj, "/status/conditions").iter().enumerate() {
        let kind = text(c, "/type");
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            // Upstream reports these under metadata.
            check::qualified_name(&mut errors, kind, &meta.child("conditions").index(i).child("Type"));
        }
    }
    let path = Path::new("status");
    let (node, was) = (text(obj, "/status/nominatedNodeName"), text(old, "/status/nominatedNodeName"));
    if node != was && !node.is_empty() {
        check::dns_subdomain(&mut errors, node, &path.child("nominatedNodeName"));
    }
    let p = "/status/qosClass";
    check::immutable(&mut errors, obj.pointer(p), old.pointer(p), &path.child("qosClass"));
    transitions(&mut errors, obj, old, &path);
    claim_statuses(&mut errors, obj, &path.child("resourceClaimStatuses"));
    addresses(&mut errors, obj, old, "podIPs", &path.child("podIPs"));
    if let Some(first) = list(obj, "/status/hostIPs").first() {
        let at = path.child("hostIPs");
        if text(first, "/ip") != text(obj, "/status/hostIP") {
            let detail = "must be equal to `hostIP`";
            errors.push(FieldError::invalid(&at.index(0).child("ip"), text(first, "/ip"), detail));
        }
        addresses(&mut errors, obj, old, "hostIPs", &at);
    }
    users(&mut errors, obj, &path);
    errors
}

/// Addresses: valid, each once, at most one of each family.
fn addresses(errors: &mut Errors, obj: &Value, old: &Value, key: &str, path: &Path) {
    let pointer = format!("/status/{key}");
    let ips: Vec<&str> = list(obj, &pointer).iter().map(|i| text(i, "/ip")).collect();
    for (i, ip) in ips.iter().enumerate() {
        if !list(old, &pointer).iter().any(|o| text(o, "/ip") == *ip) {
            check::names(errors, names::is_valid_ip_legacy(ip), (*ip).into(), &path.index(i));
        }
    }
    if ips.len() < 2 {
        return;
    }
    let parsed: Vec<IpAddr> = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    let dual = parsed.iter().any(IpAddr::is_ipv4) && parsed.iter().any(IpAddr::is_ipv6);
    if !dual || ips.len() > 2 {
        let detail = "may specify no more than one IP for each IP family";
        let all = list(obj, &pointer);
        let shown: Vec<String> = all.iter().map(shown_ip).collect();
        let error = FieldError::invalid(path, all.to_vec(), detail);
        errors.push(error.shown_as(format!("[{}]", shown.join(","))));
    }
    let mut seen = BTreeSet::new();
    for (i, ip) in ips.iter().enumerate() {
        if !seen.insert(ip) {
            let twice = list(obj, &pointer)[i].clone();
            let shown = shown_ip(&twice);
            errors.push(FieldError::duplicate(&path.index(i), twice).shown_as(shown));
        }
    }
}

fn shown_ip(entry: &Value) -> String {
    go_form(entry, &[("IP", "ip", "\"\"")])
}

/// What has ended for good does not run again.
fn transitions(errors: &mut Errors, obj: &Value, old: &Value, path: &Path) {
    let policy = text(old, "/spec/restartPolicy");
    for (key, spec_key, policy) in [
        ("containerStatuses", "containers", policy),
        ("initContainerStatuses", "initContainers", policy),
        ("ephemeralContainerStatuses", "ephemeralContainers", "Never"),
    ] {
        let pointer = format!("/status/{key}");
        for (i, before) in list(old, &pointer).iter().enumerate() {
            let name = text(before, "/name");
            let ended = |s: &Value| s.pointer("/state/terminated").is_some_and(|t| !t.is_null());
            let container = list(old, &format!("/spec/{spec_key}")).iter().find(|c| text(c, "/name") == name);
            let own = container.map_or("", |c| text(c, "/restartPolicy"));
            let ruled = container.is_some_and(|c| !list(c, "/restartPolicyRules").is_empty());
            let policy = if own.is_empty() { policy } else { own };
            let failed = before.pointer("/state/terminated/exitCode").and_then(Value::as_i64) != Some(0);
            if !ended(before) || ruled || policy == "Always" || (failed && policy == "OnFailure") {
                continue;
            }
            if list(obj, &pointer).iter().any(|s| text(s, "/name") == name && !ended(s)) {
                let at = path.child(key).index(i).child("state");
                errors.push(FieldError::forbidden(&at, "may not be transitioned to non-terminated state"));
            }
        }
    }
}

fn claim_statuses(errors: &mut Errors, obj: &Value, path: &Path) {
    let claims: BTreeSet<&str> = list(obj, "/spec/resourceClaims").iter().map(|c| text(c, "/name")).collect();
    let mut seen = BTreeSet::new();
    for (i, status) in list(obj, "/status/resourceClaimStatuses").iter().enumerate() {
        let at = path.index(i).child("name");
        let name = text(status, "/name");
        if !claims.contains(name) {
            let detail = "must match the name of an entry in `spec.resourceClaims`";
            errors.push(FieldError::invalid(&at, name, detail));
        }
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&at, name));
        }
        if let Some(claim) = given(status, "resourceClaimName").and_then(Value::as_str) {
            check::dns_subdomain(errors, claim, &at);
        }
    }
}

/// Identities that containers run under.
fn users(errors: &mut Errors, obj: &Value, path: &Path) {
    let windows = text(obj, "/spec/os/name") == "windows";
    for key in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        for (i, status) in list(obj, &format!("/status/{key}")).iter().enumerate() {
            let Some(user) = status.pointer("/user/linux").filter(|u| !u.is_null()) else { continue };
            let at = path.child(key).index(i).child("linux");
            if windows {
                errors.push(FieldError::forbidden(&at, "cannot be set for a windows pod"));
                continue;
            }
            let number = |k: &str| user.get(k).and_then(Value::as_i64).unwrap_or(0);
            let (uid, gid) = (number("uid"), number("gid"));
            check::names(errors, names::is_valid_user_id(uid), uid.into(), &at.child("uid"));
            check::names(errors, names::is_valid_group_id(gid), gid.into(), &at.child("gid"));
            for (j, g) in list(user, "/supplementalGroups").iter().filter_map(Value::as_i64).enumerate() {
                let at = at.child("supplementalGroups").index(j);
                check::names(errors, names::is_valid_group_id(g), g.into(), &at);
            }
        }
    }
}
