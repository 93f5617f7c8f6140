//! Validation of a whole pod spec.

use knarr_machinery::{FieldError, Path, labels as selector, names};
use serde_json::Value;

use super::scene::{Scene, given};
use super::{affinity, containers, resources, scheduling, security, volumes, windows};
use crate::check::{self, Errors};
use crate::value::{flag, int, list, text};

/// All errors of a pod spec with its defaults filled in. `old` is the spec that is replaced, `pod` the pod's name when
/// the spec is not a template's.
pub(super) fn validate<'a>(
    spec: &'a Value,
    old: Option<&'a Value>,
    pod: Option<&'a str>,
    path: &Path,
) -> Errors {
    let mut errors = Vec::new();
    let mut scene = Scene::new(spec, old, pod);
    if scene.grace.is_none() {
        errors.push(FieldError::required(&path.child("terminationGracePeriodSeconds"), ""));
    }
    scene.volumes = volumes::validate(&mut errors, &scene, &path.child("volumes"));
    validate_claims(&mut errors, spec, &path.child("resourceClaims"));
    containers::validate_all(&mut errors, &scene, path);
    resources::validate_pod(&mut errors, &scene, &path.child("resources"));
    validate_host_ports(&mut errors, &scene, &path.child("containers"));
    let policies = ["Always", "OnFailure", "Never"];
    let at = path.child("restartPolicy");
    check::one_of(&mut errors, text(spec, "/restartPolicy"), &at, &policies, Some(""));
    validate_dns(&mut errors, &scene, path);
    check::labels(&mut errors, spec.get("nodeSelector"), &path.child("nodeSelector"));
    security::validate_pod(&mut errors, &scene, path);
    if let Some(a) = given(spec, "affinity") {
        affinity::validate(&mut errors, a, old.and_then(|o| o.get("affinity")), &path.child("affinity"));
    }
    for (i, gate) in list(spec, "/readinessGates").iter().enumerate() {
        let at = path.child("readinessGates").index(i).child("conditionType");
        check::qualified_name(&mut errors, text(gate, "/conditionType"), &at);
    }
    validate_gates(&mut errors, list(spec, "/schedulingGates"), &path.child("schedulingGates"));
    scheduling::validate_spread(&mut errors, &scene, &path.child("topologySpreadConstraints"));
    windows::validate_host_process(&mut errors, spec, path);
    security::validate_host_users(&mut errors, &scene, path);
    validate_names(&mut errors, spec, path);
    validate_hostname_override(&mut errors, spec, path);
    errors.extend(scheduling::validate_tolerations(list(spec, "/tolerations"), &path.child("tolerations")));
    validate_host_aliases(&mut errors, &scene, &path.child("hostAliases"));
    if let Some(p) = given(spec, "preemptionPolicy").and_then(Value::as_str) {
        let at = path.child("preemptionPolicy");
        check::one_of(&mut errors, p, &at, &["PreemptLowerPriority", "Never"], Some(""));
    }
    resources::validate_list(&mut errors, spec.get("overhead"), &path.child("overhead").child("limits"));
    windows::validate_os(&mut errors, spec, path);
    errors
}

fn validate_names(errors: &mut Errors, spec: &Value, path: &Path) {
    for key in ["serviceAccountName", "nodeName", "priorityClassName"] {
        let value = text(spec, &format!("/{key}"));
        if !value.is_empty() {
            check::dns_subdomain(errors, value, &path.child(key));
        }
    }
    if let Some(class) = given(spec, "runtimeClassName").and_then(Value::as_str) {
        check::dns_subdomain(errors, class, &path.child("runtimeClassName"));
    }
    let max = i64::from(i32::MAX);
    if let Some(n) = int(spec, "/activeDeadlineSeconds").filter(|n| !(1..=max).contains(n)) {
        let at = path.child("activeDeadlineSeconds");
        errors.push(FieldError::invalid(&at, n, names::inclusive_range_error(1, max)));
    }
    for key in ["hostname", "subdomain"] {
        let value = text(spec, &format!("/{key}"));
        if !value.is_empty() {
            check::dns_label(errors, value, &path.child(key));
        }
    }
}

fn validate_hostname_override(errors: &mut Errors, spec: &Value, path: &Path) {
    let name = text(spec, "/hostnameOverride");
    if name.is_empty() {
        return;
    }
    let at = path.child("hostnameOverride");
    check::dns_subdomain(errors, name, &at);
    if name.len() > 64 {
        errors.push(FieldError::invalid(&at, name, names::max_len_error(64)));
    }
    if flag(spec, "/setHostnameAsFQDN") {
        let detail = "may not be specified when setHostnameAsFQDN is true";
        errors.push(FieldError::forbidden(&at, detail));
    }
    if flag(spec, "/hostNetwork") {
        errors.push(FieldError::forbidden(&at, "may not be specified when hostNetwork is true"));
    }
}

/// On the network of the host the ports of a container are those of the host.
fn validate_host_ports(errors: &mut Errors, scene: &Scene<'_>, path: &Path) {
    if !flag(scene.spec, "/hostNetwork") {
        return;
    }
    for (i, c) in list(scene.spec, "/containers").iter().enumerate() {
        for (j, p) in list(c, "/ports").iter().enumerate() {
            let (host, own) = (int(p, "/hostPort").unwrap_or(0), int(p, "/containerPort").unwrap_or(0));
            // A template may leave the host port to the defaults of its pods.
            if (scene.pod.is_some() || host != 0) && host != own {
                let at = path.index(i).child("ports").index(j).child("hostPort");
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(&at, host, detail));
            }
        }
    }
}

fn validate_dns(errors: &mut Errors, scene: &Scene<'_>, path: &Path) {
    let spec = scene.spec;
    let policy = text(spec, "/dnsPolicy");
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    check::one_of(errors, policy, &path.child("dnsPolicy"), &policies, Some(""));
    let config = path.child("dnsConfig");
    let servers = list(spec, "/dnsConfig/nameservers");
    let server_path = config.child("nameservers");
    if policy == "None" {
        if given(spec, "dnsConfig").is_none() {
            errors.push(FieldError::required(&config, "must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(FieldError::required(&server_path, detail));
            return;
        }
    }
    if servers.len() > 3 {
        let detail = "must not have more than 3 nameservers";
        errors.push(FieldError::invalid(&server_path, servers.to_vec(), detail));
    }
    for (i, ip) in servers.iter().filter_map(Value::as_str).enumerate() {
        if !scene.had("/dnsConfig/nameservers", "", ip) {
            check::names(errors, names::is_valid_ip_legacy(ip), ip.into(), &server_path.index(i));
        }
    }
    validate_searches(errors, list(spec, "/dnsConfig/searches"), &config.child("searches"));
    for (i, o) in list(spec, "/dnsConfig/options").iter().enumerate() {
        if text(o, "/name").is_empty() {
            errors.push(FieldError::required(&config.child("options").index(i), "must not be empty"));
        }
    }
}

fn validate_searches(errors: &mut Errors, searches: &[Value], path: &Path) {
    let texts: Vec<&str> = searches.iter().filter_map(Value::as_str).collect();
    if texts.len() > 32 {
        let detail = "must not have more than 32 search paths";
        errors.push(FieldError::invalid(path, searches.to_vec(), detail));
    }
    if texts.join(" ").len() > 2048 {
        let detail = "must not have more than 2048 characters (including spaces) in the search list";
        errors.push(FieldError::invalid(path, searches.to_vec(), detail));
    }
    for (i, s) in texts.into_iter().enumerate().filter(|(_, s)| *s != ".") {
        let s = s.strip_suffix('.').unwrap_or(s);
        check::names(errors, names::is_dns1123_subdomain_with_underscore(s), s.into(), &path.index(i));
    }
}

fn validate_gates(errors: &mut Errors, gates: &[Value], path: &Path) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, gate) in gates.iter().enumerate() {
        let (name, at) = (text(gate, "/name"), path.index(i));
        check::qualified_name(errors, name, &at);
        if seen.contains(&name) {
            errors.push(FieldError::duplicate(&at, name));
        }
        seen.push(name);
    }
}

fn validate_host_aliases(errors: &mut Errors, scene: &Scene<'_>, path: &Path) {
    for (i, alias) in list(scene.spec, "/hostAliases").iter().enumerate() {
        let (at, ip) = (path.index(i), text(alias, "/ip"));
        if !scene.had("/hostAliases", "/ip", ip) {
            check::names(errors, names::is_valid_ip_legacy(ip), ip.into(), &at.child("ip"));
        }
        for (j, host) in list(alias, "/hostnames").iter().filter_map(Value::as_str).enumerate() {
            check::dns_subdomain(errors, host, &at.child("hostnames").index(j));
        }
    }
}

fn validate_claims(errors: &mut Errors, spec: &Value, path: &Path) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, claim) in list(spec, "/resourceClaims").iter().enumerate() {
        let (at, name) = (path.index(i), text(claim, "/name"));
        if name.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        } else if seen.contains(&name) {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        } else {
            check::dns_label(errors, name, &at.child("name"));
            seen.push(name);
        }
        let keys = ["resourceClaimName", "resourceClaimTemplateName"];
        let detail = match keys.iter().filter(|k| given(claim, k).is_some()).count() {
            0 => Some("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"),
            1 => None,
            _ => Some("at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"),
        };
        errors.extend(detail.map(|d| FieldError::invalid(&at, claim.clone(), d)));
        for key in keys {
            if let Some(other) = given(claim, key).and_then(Value::as_str) {
                check::dns_subdomain(errors, other, &at.child(key));
            }
        }
    }
}

/// Errors of the labels and annotations of a template. They are reported beside `metadata`, as upstream does.
pub(super) fn validate_template_meta(errors: &mut Errors, template: &Value, path: &Path) {
    if let Some(l) = template.pointer("/metadata/labels").and_then(Value::as_object) {
        errors.extend(selector::validate_labels(l, &path.child("labels")));
    }
    if let Some(a) = template.pointer("/metadata/annotations") {
        errors.extend(knarr_machinery::meta::validate_annotations(a, &path.child("annotations")));
    }
}
