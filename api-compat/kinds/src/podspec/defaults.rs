//! Defaults of pods and pod specs.

use knarr_machinery::quantity::Quantity;
use serde_json::{Map, Value, json};

use super::resources::{aggregate, may_overcommit, pod_may_have};
use crate::value::{each, fill, fill_text, flag, int, list, map, sub, text, with};

/// Defaults of a pod spec, in pods and in templates.
pub(crate) fn default_spec(spec: &mut Value) {
    fill_text(spec, "dnsPolicy", "ClusterFirst");
    fill_text(spec, "restartPolicy", "Always");
    fill(spec, "securityContext", Map::new());
    fill(spec, "terminationGracePeriodSeconds", 30);
    fill_text(spec, "schedulerName", "default-scheduler");
    let account = match text(spec, "/serviceAccountName") {
        "" => text(spec, "/serviceAccount").to_string(),
        name => name.to_string(),
    };
    if !account.is_empty() {
        spec["serviceAccountName"] = account.clone().into();
        spec["serviceAccount"] = account.into();
    }
    for key in ["/initContainers", "/containers", "/ephemeralContainers"] {
        each(spec, key, default_container);
    }
    each(spec, "/volumes", default_volume);
    with(spec, "/resources", |r| {
        canonical_quantities(r, "/limits");
        canonical_quantities(r, "/requests");
    });
    canonical_quantities(spec, "/overhead");
}

/// What only pods get: service links, requests from limits, host ports on the host network.
pub(crate) fn default_pod(pod: &mut Value) {
    with(pod, "/spec", |spec| {
        default_spec(spec);
        fill(spec, "enableServiceLinks", true);
        let host_network = flag(spec, "/hostNetwork");
        for key in ["/initContainers", "/containers"] {
            each(spec, key, |c| {
                requests_from_limits(c);
                if host_network {
                    each(c, "/ports", |p| {
                        let port = int(p, "/containerPort").unwrap_or(0);
                        if int(p, "/hostPort").unwrap_or(0) == 0 {
                            p["hostPort"] = port.into();
                        }
                    });
                }
            });
        }
        if spec.get("resources").is_some_and(Value::is_object) {
            pod_resources(spec);
        }
    });
}

fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container.pointer("/resources/limits").and_then(Value::as_object).cloned() else {
        return;
    };
    if limits.is_empty() {
        return;
    }
    let requests = sub(sub(container, "resources"), "requests");
    for (key, value) in limits {
        fill(requests, &key, value);
    }
}

/// What a pod as a whole asks for and may use, as far as it says so in part: limits of huge pages and requests come
/// from the containers, requests else from the limits, limits of cpu and memory from containers that all have one.
fn pod_resources(spec: &mut Value) {
    let has =
        |spec: &Value, key: &str| map(spec, &format!("/resources/{key}")).is_some_and(|m| !m.is_empty());
    let asked = |spec: &Value, key: &str, name: &str| {
        map(spec, &format!("/resources/{key}")).is_some_and(|m| m.contains_key(name))
    };
    let sums = |spec: &Value, key: &str| -> Vec<(String, String)> {
        let sums = aggregate(spec, key).into_iter().filter(|(name, _)| pod_may_have(name));
        sums.map(|(name, q)| (name.to_string(), q.to_string())).collect()
    };
    if has(spec, "limits") || has(spec, "requests") {
        for (name, sum) in sums(spec, "limits") {
            if !may_overcommit(&name) && !asked(spec, "requests", &name) {
                fill(sub(sub(spec, "resources"), "limits"), &name, sum);
            }
        }
    }
    if has(spec, "limits") {
        for (name, sum) in sums(spec, "requests").into_iter().filter(|(name, _)| may_overcommit(name)) {
            fill(sub(sub(spec, "resources"), "requests"), &name, sum);
        }
        let limits = map(spec, "/resources/limits").cloned().unwrap_or_default();
        for (name, limit) in limits.into_iter().filter(|(name, _)| pod_may_have(name)) {
            fill(sub(sub(spec, "resources"), "requests"), &name, limit);
        }
    } else if has(spec, "requests") {
        for (name, sum) in sums(spec, "limits").into_iter().filter(|(name, _)| may_overcommit(name)) {
            let limited = |c: &Value| map(c, "/resources/limits").is_some_and(|m| m.contains_key(&name));
            if list(spec, "/containers").iter().chain(list(spec, "/initContainers")).all(limited) {
                fill(sub(sub(spec, "resources"), "limits"), &name, sum);
            }
        }
    }
}

/// Quantities in a map take their canonical form; what does not parse is left to validation.
pub(crate) fn canonical_quantities(obj: &mut Value, pointer: &str) {
    let Some(map) = obj.pointer_mut(pointer).and_then(Value::as_object_mut) else { return };
    for value in map.values_mut() {
        if let Ok(q) = Quantity::from_json(value) {
            *value = whole_thousandths(q).to_string().into();
        }
    }
}

/// Amounts below a thousandth are rounded up.
fn whole_thousandths(q: Quantity) -> Quantity {
    if q.value().unsigned_abs() >= i64::MAX.unsigned_abs() / 1000 {
        return q;
    }
    let rounded = Quantity::from_milli(q.milli_value(), q.format());
    if rounded == q { q } else { rounded }
}

fn default_container(c: &mut Value) {
    let image = text(c, "/image").to_string();
    fill_text(c, "imagePullPolicy", pull_policy(&image));
    fill_text(c, "terminationMessagePath", "/dev/termination-log");
    fill_text(c, "terminationMessagePolicy", "File");
    fill(c, "resources", Map::new());
    canonical_quantities(c, "/resources/limits");
    canonical_quantities(c, "/resources/requests");
    each(c, "/ports", |p| fill_text(p, "protocol", "TCP"));
    each(c, "/env", |e| with(e, "/valueFrom", default_field_source));
    each(c, "/env", |e| with(e, "/valueFrom/fileKeyRef", |f| fill(f, "optional", false)));
    for key in ["/livenessProbe", "/readinessProbe", "/startupProbe"] {
        with(c, key, |probe| {
            with(probe, "/grpc", |g| fill(g, "service", ""));
            default_http(probe);
            for (field, n) in [
                ("timeoutSeconds", 1),
                ("periodSeconds", 10),
                ("successThreshold", 1),
                ("failureThreshold", 3),
            ] {
                if int(probe, &format!("/{field}")).unwrap_or(0) == 0 {
                    probe[field] = n.into();
                }
            }
        });
    }
    for key in ["/lifecycle/postStart", "/lifecycle/preStop"] {
        with(c, key, default_http);
    }
}

fn default_http(handler: &mut Value) {
    with(handler, "/httpGet", |h| {
        fill_text(h, "path", "/");
        fill_text(h, "scheme", "HTTP");
    });
}

/// API version of field references, divisor of resource references.
fn default_field_source(source: &mut Value) {
    with(source, "/fieldRef", |f| fill_text(f, "apiVersion", "v1"));
    with(source, "/resourceFieldRef", |r| fill(r, "divisor", "0"));
}

/// `Always` for the tag latest, and where neither tag nor digest are given; else, and for what is no image name at
/// all, `IfNotPresent`.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let (domain, path) = match name.split_once('/') {
        Some((d, p)) if d.contains(['.', ':']) || d == "localhost" || d != d.to_lowercase() => (d, p),
        _ => ("", name),
    };
    let (repository, tag) = match path.rsplit_once(':') {
        Some((r, t)) if !t.contains('/') => (r, Some(t)),
        _ => (path, None),
    };
    let part = |p: &str| {
        p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
            && p.starts_with(|c: char| c.is_ascii_alphanumeric())
            && p.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    let named = repository.split('/').all(part)
        && domain.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'))
        && tag.is_none_or(|t| !t.is_empty());
    match tag {
        Some("latest") if named => "Always",
        None if named && digest.is_none() => "Always",
        _ => "IfNotPresent",
    }
}

fn default_volume(v: &mut Value) {
    let named_only = v.as_object().is_some_and(|m| m.iter().all(|(k, v)| k == "name" || v.is_null()));
    if named_only {
        v["emptyDir"] = json!({});
    }
    for key in ["/secret", "/configMap", "/downwardAPI", "/projected"] {
        with(v, key, |s| fill(s, "defaultMode", 420));
    }
    with(v, "/downwardAPI", |d| each(d, "/items", default_field_source));
    with(v, "/projected", |p| {
        each(p, "/sources", |s| {
            with(s, "/downwardAPI", |d| each(d, "/items", default_field_source));
            with(s, "/serviceAccountToken", |t| fill(t, "expirationSeconds", 3600));
            with(s, "/podCertificate", |t| fill(t, "maxExpirationSeconds", 86_400));
        });
    });
    with(v, "/hostPath", |h| fill(h, "type", ""));
    with(v, "/iscsi", |i| fill_text(i, "iscsiInterface", "default"));
    with(v, "/rbd", |r| {
        fill_text(r, "pool", "rbd");
        fill_text(r, "user", "admin");
        fill_text(r, "keyring", "/etc/ceph/keyring");
    });
    with(v, "/azureDisk", |a| {
        fill_text(a, "cachingMode", "ReadWrite");
        fill_text(a, "kind", "Shared");
        fill_text(a, "fsType", "ext4");
        fill(a, "readOnly", false);
    });
    with(v, "/scaleIO", |s| {
        fill_text(s, "storageMode", "ThinProvisioned");
        fill_text(s, "fsType", "xfs");
    });
    with(v, "/image", |i| {
        let reference = text(i, "/reference").to_string();
        fill_text(i, "pullPolicy", pull_policy(&reference));
    });
    with(v, "/ephemeral/volumeClaimTemplate/spec", default_volume_claim);
}

/// Defaults of the spec of a volume claim.
pub(crate) fn default_volume_claim(spec: &mut Value) {
    fill_text(spec, "volumeMode", "Filesystem");
    fill(spec, "resources", Map::new());
    canonical_quantities(spec, "/resources/requests");
    canonical_quantities(spec, "/resources/limits");
}
