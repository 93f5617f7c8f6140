//! Validation of volume sources.

use knarr_machinery::quantity::Quantity;
use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use super::mounts::{file_mode, local_path, needed, no_backsteps, unreserved_path};
use super::scene::{Scene, given};
use super::{containers, projected};
use crate::check::{self, Errors};
use crate::value::{flag, int, is_empty, list, map, text};

/// Fields that a source must have, without any word why.
fn required_fields(kind: &str) -> &'static [&'static str] {
    match kind {
        "hostPath" => &["path"],
        "gitRepo" => &["repository"],
        "gcePersistentDisk" => &["pdName"],
        "awsElasticBlockStore" | "cinder" | "portworxVolume" => &["volumeID"],
        "secret" => &["secretName"],
        "nfs" => &["server", "path"],
        "iscsi" => &["targetPortal", "iqn"],
        "glusterfs" => &["endpoints", "path"],
        "persistentVolumeClaim" => &["claimName"],
        "rbd" => &["monitors", "image"],
        "cephfs" => &["monitors"],
        "quobyte" => &["volume"],
        "flexVolume" => &["driver"],
        "configMap" => &["name"],
        "azureFile" => &["secretName", "shareName"],
        "vsphereVolume" => &["volumePath"],
        "photonPersistentDisk" => &["pdID"],
        "azureDisk" => &["diskName", "diskURI"],
        "storageos" => &["volumeName"],
        "scaleIO" => &["gateway", "system", "volumeName"],
        "ephemeral" => &["volumeClaimTemplate"],
        _ => &[],
    }
}

/// A source of this kind.
pub(super) fn validate(errors: &mut Errors, kind: &str, source: &Value, scene: &Scene<'_>, at: &Path) {
    for key in required_fields(kind) {
        needed(errors, source, key, at);
    }
    match kind {
        "emptyDir" => empty_dir(errors, source, at),
        "hostPath" => host_path(errors, source, at),
        "gitRepo" => local_path(errors, text(source, "/directory"), &at.child("directory")),
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            let n = int(source, "/partition").unwrap_or(0);
            if !(0..=255).contains(&n) {
                let detail = names::inclusive_range_error(1, 255);
                errors.push(FieldError::invalid(&at.child("partition"), n, detail));
            }
        }
        "secret" | "configMap" => {
            file_mode(errors, int(source, "/defaultMode"), &at.child("defaultMode"));
            for (i, item) in list(source, "/items").iter().enumerate() {
                key_to_path(errors, item, &at.child("items").index(i));
            }
        }
        "nfs" if !text(source, "/path").starts_with('/') => {
            let detail = "must be an absolute path";
            errors.push(FieldError::invalid(&at.child("path"), text(source, "/path"), detail));
        }
        "iscsi" => iscsi(errors, source, at),
        "flocker" => flocker(errors, source, at),
        "quobyte" => quobyte(errors, source, at),
        "downwardAPI" => {
            file_mode(errors, int(source, "/defaultMode"), &at.child("defaultMode"));
            for item in list(source, "/items") {
                projected::downward_file(errors, item, at);
            }
        }
        "fc" => fibre_channel(errors, source, at),
        "flexVolume" => flex_options(errors, source, at),
        "azureDisk" => azure_disk(errors, source, at),
        "storageos" => storage_os(errors, source, at),
        "cinder" => secret_name(errors, source, "secretRef", at),
        "projected" => projected::validate(errors, source, scene, at),
        "csi" => csi(errors, source, at),
        "ephemeral" => claim_template(errors, source, at),
        "image" => {
            if scene.pod.is_some() {
                needed(errors, source, "reference", at);
            }
            containers::validate_pull_policy(errors, text(source, "/pullPolicy"), &at.child("pullPolicy"));
        }
        _ => {}
    }
}

fn empty_dir(errors: &mut Errors, source: &Value, at: &Path) {
    let limit = given(source, "sizeLimit").and_then(|l| Quantity::from_json(l).ok());
    if limit.is_some_and(|q| q.sign() < 0) {
        let detail = "SizeLimit field must be a valid resource quantity";
        errors.push(FieldError::forbidden(&at.child("sizeLimit"), detail));
    }
}

fn host_path(errors: &mut Errors, source: &Value, at: &Path) {
    if text(source, "/path").is_empty() {
        return;
    }
    no_backsteps(errors, text(source, "/path"), &at.child("path"));
    let types =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    let kind = text(source, "/type");
    if !types.contains(&kind) {
        errors.push(FieldError::not_supported(&at.child("type"), kind, &types));
    }
}

/// A key and the file that it becomes.
pub(super) fn key_to_path(errors: &mut Errors, item: &Value, at: &Path) {
    needed(errors, item, "key", at);
    needed(errors, item, "path", at);
    unreserved_path(errors, text(item, "/path"), &at.child("path"));
    file_mode(errors, int(item, "/mode"), &at.child("mode"));
}

/// What is wrong with an iSCSI name.
fn initiator_problem(name: &str) -> Option<&'static str> {
    let alphanumeric = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_alphanumeric());
    let ok = if let Some(rest) = name.strip_prefix("iqn") {
        is_iqn(rest)
    } else if let Some(rest) = name.strip_prefix("eui") {
        rest.len() == 17 && alphanumeric(&rest[rest.len().min(1)..], 16)
    } else if let Some(rest) = name.strip_prefix("naa") {
        rest.len() == 33 && alphanumeric(&rest[rest.len().min(1)..], 32)
    } else {
        return Some("must be valid format starting with iqn, eui, or naa");
    };
    (!ok).then_some("must be valid format")
}

/// `.YYYY-MM.domain:unique`, after `iqn`.
fn is_iqn(rest: &str) -> bool {
    let Some(((date, domain), unique)) = rest
        .strip_prefix('.')
        .and_then(|r| r.split_once(':'))
        .and_then(|(head, unique)| Some((head.split_once('.')?, unique)))
    else {
        return false;
    };
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let dated =
        date.split_once('-').is_some_and(|(y, m)| y.len() == 4 && m.len() == 2 && digits(y) && digits(m));
    let named =
        !domain.is_empty() && domain.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
    dated && named && !unique.is_empty() && !unique.chars().any(|c| ",;*&$|".contains(c) || c.is_whitespace())
}

fn lun(errors: &mut Errors, value: i64, at: &Path) {
    if !(0..=255).contains(&value) {
        errors.push(FieldError::invalid(&at.child("lun"), value, names::inclusive_range_error(0, 255)));
    }
}

fn iscsi(errors: &mut Errors, source: &Value, at: &Path) {
    let iqn = text(source, "/iqn");
    if let Some(detail) = initiator_problem(iqn).filter(|_| !iqn.is_empty()) {
        errors.push(FieldError::invalid(&at.child("iqn"), iqn, detail));
    }
    lun(errors, int(source, "/lun").unwrap_or(0), at);
    let chap = flag(source, "/chapAuthDiscovery") || flag(source, "/chapAuthSession");
    if chap && given(source, "secretRef").is_none() {
        errors.push(FieldError::required(&at.child("secretRef"), ""));
    }
    if let Some(name) = given(source, "initiatorName").and_then(Value::as_str)
        && let Some(detail) = initiator_problem(name)
    {
        errors.push(FieldError::invalid(&at.child("initiatorname"), name, detail));
    }
}

fn flocker(errors: &mut Errors, source: &Value, at: &Path) {
    let (name, uuid) = (text(source, "/datasetName"), text(source, "/datasetUUID"));
    if name.is_empty() && uuid.is_empty() {
        errors.push(FieldError::required(at, "one of datasetName and datasetUUID is required"));
    }
    if !name.is_empty() && !uuid.is_empty() {
        let detail = "datasetName and datasetUUID can not be specified simultaneously";
        errors.push(FieldError::invalid(at, "resource", detail));
    }
    if name.contains('/') {
        errors.push(FieldError::invalid(&at.child("datasetName"), name, "must not contain '/'"));
    }
}

fn quobyte(errors: &mut Errors, source: &Value, at: &Path) {
    let registry = text(source, "/registry");
    let detail = "must be a host:port pair or multiple pairs separated by commas";
    if registry.is_empty() {
        errors.push(FieldError::required(&at.child("registry"), detail));
    } else if text(source, "/tenant").len() >= 65 {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        errors.push(FieldError::required(&at.child("tenant"), detail));
    } else {
        let is_pair = |p: &str| match p.rsplit_once(':') {
            Some((host, _)) => !host.contains(':') || (host.starts_with('[') && host.ends_with(']')),
            None => false,
        };
        for _ in registry.split(',').filter(|p| !is_pair(p)) {
            errors.push(FieldError::invalid(&at.child("registry"), registry, detail));
        }
    }
}

fn fibre_channel(errors: &mut Errors, source: &Value, at: &Path) {
    let wwns = list(source, "/targetWWNs");
    let by_id = !list(source, "/wwids").is_empty();
    let place = at.child("targetWWNs");
    if wwns.is_empty() && !by_id {
        let detail = "must specify either targetWWNs or wwids, but not both";
        errors.push(FieldError::required(&place, detail));
    }
    if wwns.is_empty() {
        return;
    }
    if by_id {
        let detail = "targetWWNs and wwids can not be specified simultaneously";
        errors.push(FieldError::invalid(&place, wwns.to_vec(), detail));
    }
    match int(source, "/lun") {
        None => {
            errors.push(FieldError::required(&at.child("lun"), "lun is required if targetWWNs is specified"));
        }
        Some(n) => lun(errors, n, at),
    }
}

fn flex_options(errors: &mut Errors, source: &Value, at: &Path) {
    for (key, _) in map(source, "/options").into_iter().flatten() {
        let domain = format!(".{}", key.split('/').next().unwrap_or(key).to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            let detail = "kubernetes.io and k8s.io namespaces are reserved";
            errors.push(FieldError::invalid(&at.child("options").key(key), key.as_str(), detail));
        }
    }
}

fn azure_disk(errors: &mut Errors, source: &Value, at: &Path) {
    let caching = text(source, "/cachingMode");
    check::one_of(errors, caching, &at.child("cachingMode"), &["None", "ReadOnly", "ReadWrite"], None);
    let kind = text(source, "/kind");
    check::one_of(errors, kind, &at.child("kind"), &["Dedicated", "Managed", "Shared"], None);
    let uri = text(source, "/diskURI");
    let place = at.child("diskURI");
    if kind == "Managed" && !uri.starts_with("/subscriptions/") {
        let form =
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
        errors.push(FieldError::not_supported(&place, uri, &[form]));
    } else if !kind.is_empty() && kind != "Managed" && !uri.starts_with("https://") {
        let form = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
        errors.push(FieldError::not_supported(&place, uri, &[form]));
    }
}

/// A reference to a secret, if given, has a name.
fn secret_name(errors: &mut Errors, source: &Value, key: &str, at: &Path) {
    if let Some(reference) = given(source, key) {
        needed(errors, reference, "name", &at.child(key));
    }
}

fn storage_os(errors: &mut Errors, source: &Value, at: &Path) {
    for key in ["volumeName", "volumeNamespace"] {
        let value = text(source, &format!("/{key}"));
        if !value.is_empty() {
            check::dns_label(errors, value, &at.child(key));
        }
    }
    secret_name(errors, source, "secretRef", at);
}

fn csi(errors: &mut Errors, source: &Value, at: &Path) {
    let driver = text(source, "/driver");
    let place = at.child("driver");
    if driver.is_empty() {
        errors.push(FieldError::required(&place, ""));
    }
    if driver.len() > 63 {
        errors.push(FieldError::too_long(&place, 63));
    }
    check::names(errors, names::is_dns1123_subdomain(&driver.to_lowercase()), driver.into(), &place);
    secret_name(errors, source, "nodePublishSecretRef", at);
    let secret = text(source, "/nodePublishSecretRef/name");
    if !secret.is_empty() {
        check::dns_subdomain(errors, secret, &at.child("name"));
    }
}

fn claim_template(errors: &mut Errors, source: &Value, at: &Path) {
    let Some(template) = given(source, "volumeClaimTemplate") else { return };
    let at = at.child("volumeClaimTemplate");
    let meta = template.get("metadata").unwrap_or(&Value::Null);
    let place = at.child("metadata");
    if let Some(a) = meta.get("annotations") {
        errors.extend(knarr_machinery::meta::validate_annotations(a, &place.child("annotations")));
    }
    check::labels(errors, meta.get("labels"), &place.child("labels"));
    for (key, value) in meta.as_object().into_iter().flatten() {
        if !matches!(key.as_str(), "annotations" | "labels") && !is_empty(Some(value)) {
            errors.push(FieldError::forbidden(&place.child(key), "cannot be set"));
        }
    }
    let spec = template.get("spec").unwrap_or(&Value::Null);
    crate::core::persistentvolumeclaim::validate_spec(errors, spec, &at.child("spec"));
}
