//! Validation of volumes.

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use super::containers::{Volumes, local_path};
use super::env;
use crate::check::{self, Errors};
use crate::value::{int, list, text};

/// Sources and the fields that each needs.
const REQUIRED: &[(&str, &[&str])] = &[
    ("awsElasticBlockStore", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("azureFile", &["secretName", "shareName"]),
    ("cephfs", &["monitors"]),
    ("cinder", &["volumeID"]),
    ("configMap", &["name"]),
    ("csi", &["driver"]),
    ("downwardAPI", &[]),
    ("emptyDir", &[]),
    ("ephemeral", &["volumeClaimTemplate"]),
    ("fc", &[]),
    ("flexVolume", &["driver"]),
    ("flocker", &[]),
    ("gcePersistentDisk", &["pdName"]),
    ("gitRepo", &["repository"]),
    ("glusterfs", &["endpoints", "path"]),
    ("hostPath", &["path"]),
    ("image", &[]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("nfs", &["server", "path"]),
    ("persistentVolumeClaim", &["claimName"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("projected", &[]),
    ("quobyte", &["registry", "volume"]),
    ("rbd", &["monitors", "image"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("secret", &["secretName"]),
    ("storageos", &[]),
    ("vsphereVolume", &["volumePath"]),
];

/// Checks all volumes and returns their names.
pub(super) fn validate(errors: &mut Errors, volumes: &[Value], path: &Path) -> Volumes {
    let mut known = Volumes::new();
    for (i, v) in volumes.iter().enumerate() {
        let at = path.index(i);
        let given = text(v, "/name");
        if given.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        } else {
            let messages = names::is_dns1123_label(given);
            if messages.is_empty() && known.contains_key(given) {
                errors.push(FieldError::duplicate(&at.child("name"), given));
            }
            check::names(errors, messages, given.into(), &at.child("name"));
        }
        source(errors, v, &at);
        let block = v.get("persistentVolumeClaim").or(v.get("ephemeral")).is_some_and(|s| !s.is_null());
        known.insert(given.to_string(), block);
    }
    known
}

fn source(errors: &mut Errors, v: &Value, path: &Path) {
    let mut count = 0;
    for (kind, required) in REQUIRED {
        let Some(source) = v.get(*kind).filter(|s| !s.is_null()) else { continue };
        let at = path.child(kind);
        count += 1;
        if count > 1 {
            errors.push(FieldError::forbidden(&at, "may not specify more than 1 volume type"));
            continue;
        }
        for key in *required {
            if crate::value::is_empty(source.get(*key)) {
                errors.push(FieldError::required(&at.child(key), ""));
            }
        }
        details(errors, kind, source, &at);
    }
    if count == 0 {
        errors.push(FieldError::required(path, "must specify a volume type"));
    }
}

fn details(errors: &mut Errors, kind: &str, source: &Value, at: &Path) {
    match kind {
        "hostPath" => {
            let path = text(source, "/path");
            if path.split('/').any(|p| p == "..") {
                errors.push(FieldError::invalid(&at.child("path"), path, "must not contain '..'"));
            }
            let types = [
                "",
                "BlockDevice",
                "CharDevice",
                "Directory",
                "DirectoryOrCreate",
                "File",
                "FileOrCreate",
                "Socket",
            ];
            let given = text(source, "/type");
            if !types.contains(&given) {
                errors.push(FieldError::not_supported(&at.child("type"), given, &types));
            }
        }
        "emptyDir" => {
            if let Some(limit) = source.get("sizeLimit").filter(|l| !l.is_null())
                && knarr_machinery::quantity::Quantity::from_json(limit).is_ok_and(|q| q.sign() < 0)
            {
                errors.push(FieldError::forbidden(
                    &at.child("sizeLimit"),
                    "SizeLimit field must be a valid resource quantity",
                ));
            }
            let medium = text(source, "/medium");
            if !matches!(medium, "" | "Memory" | "HugePages") && !medium.starts_with("HugePages-") {
                errors.push(FieldError::not_supported(
                    &at.child("medium"),
                    medium,
                    &["", "HugePages", "Memory"],
                ));
            }
        }
        "secret" | "configMap" => {
            mode(errors, int(source, "/defaultMode"), &at.child("defaultMode"));
            items(errors, list(source, "/items"), &at.child("items"));
        }
        "downwardAPI" => {
            mode(errors, int(source, "/defaultMode"), &at.child("defaultMode"));
            downward(errors, list(source, "/items"), at);
        }
        "projected" => {
            mode(errors, int(source, "/defaultMode"), &at.child("defaultMode"));
            projected(errors, list(source, "/sources"), &at.child("sources"));
        }
        "nfs" if !text(source, "/path").is_empty() && !text(source, "/path").starts_with('/') => {
            errors.push(FieldError::invalid(
                &at.child("path"),
                text(source, "/path"),
                "must be an absolute path",
            ));
        }
        "ephemeral" => {
            let spec = source.pointer("/volumeClaimTemplate/spec").unwrap_or(&Value::Null);
            let here = at.child("volumeClaimTemplate").child("spec");
            crate::core::persistentvolumeclaim::validate_spec(errors, spec, &here);
        }
        "csi" => {
            check::dns_subdomain(errors, &text(source, "/driver").to_lowercase(), &at.child("driver"));
        }
        _ => {}
    }
}

fn mode(errors: &mut Errors, value: Option<i64>, path: &Path) {
    if let Some(n) = value.filter(|n| !(0..=0o777).contains(n)) {
        errors.push(FieldError::invalid(
            path,
            n,
            "must be a number between 0 and 0777 (octal), both inclusive",
        ));
    }
}

/// Keys and their paths.
fn items(errors: &mut Errors, items: &[Value], path: &Path) {
    for (i, item) in items.iter().enumerate() {
        let at = path.index(i);
        if text(item, "/key").is_empty() {
            errors.push(FieldError::required(&at.child("key"), ""));
        }
        file_path(errors, text(item, "/path"), &at.child("path"));
        mode(errors, int(item, "/mode"), &at.child("mode"));
    }
}

fn file_path(errors: &mut Errors, value: &str, path: &Path) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    local_path(errors, value, path);
    if value.starts_with("..") && value.split('/').next() != Some("..") {
        errors.push(FieldError::invalid(path, value, "must not start with '..'"));
    }
}

fn downward(errors: &mut Errors, items: &[Value], path: &Path) {
    for item in items {
        file_path(errors, text(item, "/path"), &path.child("path"));
        mode(errors, int(item, "/mode"), &path.child("mode"));
        let given = |key: &str| item.get(key).filter(|v| !v.is_null());
        match (given("fieldRef"), given("resourceFieldRef")) {
            (Some(f), other) => {
                env::validate_field_ref(errors, f, env::VOLUME_FIELDS, &path.child("fieldRef"));
                if other.is_some() {
                    errors.push(FieldError::invalid(
                        path,
                        "resource",
                        "fieldRef and resourceFieldRef can not be specified simultaneously",
                    ));
                }
            }
            (None, Some(r)) => env::validate_resource_ref(errors, r, &path.child("resourceFieldRef"), true),
            (None, None) => {
                errors.push(FieldError::required(path, "one of fieldRef and resourceFieldRef is required"))
            }
        }
    }
}

fn projected(errors: &mut Errors, sources: &[Value], path: &Path) {
    for (i, source) in sources.iter().enumerate() {
        let at = path.index(i);
        let mut count = 0;
        for kind in [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ] {
            let Some(s) = source.get(kind).filter(|s| !s.is_null()) else { continue };
            count += 1;
            let here = at.child(kind);
            if count > 1 {
                errors.push(FieldError::forbidden(&at, "may not specify more than 1 volume type per source"));
            }
            match kind {
                "secret" | "configMap" => {
                    if text(s, "/name").is_empty() {
                        errors.push(FieldError::required(&here.child("name"), ""));
                    }
                    items(errors, list(s, "/items"), &here.child("items"));
                }
                "downwardAPI" => downward(errors, list(s, "/items"), &here),
                "serviceAccountToken" => {
                    let seconds = int(s, "/expirationSeconds").unwrap_or(0);
                    if seconds < 600 {
                        errors.push(FieldError::invalid(
                            &here.child("expirationSeconds"),
                            seconds,
                            "may not specify a duration less than 10 minutes",
                        ));
                    }
                    if seconds > 1 << 32 {
                        errors.push(FieldError::invalid(
                            &here.child("expirationSeconds"),
                            seconds,
                            "may not specify a duration larger than 2^32 seconds",
                        ));
                    }
                    file_path(errors, text(s, "/path"), &here.child("path"));
                }
                "clusterTrustBundle" => file_path(errors, text(s, "/path"), &here.child("path")),
                _ => {
                    if text(s, "/signerName").is_empty() {
                        errors.push(FieldError::required(&here.child("signerName"), ""));
                    }
                }
            }
        }
        if count == 0 {
            errors.push(FieldError::required(&at, "must specify a volume type"));
        }
    }
}
