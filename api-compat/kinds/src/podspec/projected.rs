//! Validation of projected volumes and of files of the downward API.

use std::collections::BTreeSet;

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use super::env;
use super::mounts::{file_mode, needed, unreserved_path};
use super::scene::{Scene, given};
use super::sources::key_to_path;
use crate::check::{self, Errors};
use crate::value::{int, list, map, text};

/// A file with a field of the pod or a resource of a container. Errors are reported at the list and not at its item, as
/// upstream does.
pub(super) fn downward_file(errors: &mut Errors, item: &Value, path: &Path) {
    needed(errors, item, "path", path);
    unreserved_path(errors, text(item, "/path"), &path.child("path"));
    match (given(item, "fieldRef"), given(item, "resourceFieldRef")) {
        (Some(f), other) => {
            env::validate_field_ref(errors, f, env::VOLUME_FIELDS, &path.child("fieldRef"));
            if other.is_some() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(FieldError::invalid(path, "resource", detail));
            }
        }
        (None, Some(r)) => env::validate_resource_ref(errors, r, &path.child("resourceFieldRef"), true),
        (None, None) => {
            errors.push(FieldError::required(path, "one of fieldRef and resourceFieldRef is required"));
        }
    }
    file_mode(errors, int(item, "/mode"), &path.child("mode"));
}

const KINDS: [&str; 6] =
    ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];

/// A projected volume.
pub(super) fn validate(errors: &mut Errors, volume: &Value, scene: &Scene<'_>, path: &Path) {
    file_mode(errors, int(volume, "/defaultMode"), &path.child("defaultMode"));
    let mut files: BTreeSet<String> = BTreeSet::new();
    for (i, source) in list(volume, "/sources").iter().enumerate() {
        let at = path.child("sources").index(i);
        let mut count = 0;
        for kind in KINDS {
            let Some(s) = given(source, kind) else { continue };
            count += 1;
            let here = at.child(kind);
            match kind {
                "secret" | "configMap" => named(errors, s, &mut files, path, &here),
                "downwardAPI" => {
                    for item in list(s, "/items") {
                        downward_file(errors, item, &here);
                        let file = text(item, "/path");
                        claim_file(errors, &mut files, file, file, path);
                    }
                }
                "serviceAccountToken" => token(errors, s, scene, path, &here),
                "clusterTrustBundle" => trust_bundle(errors, s, &mut files, path, &here),
                _ => certificate(errors, s, &mut files, path, &here),
            }
        }
        if count > 1 {
            errors.push(FieldError::forbidden(&at, "may not specify more than 1 volume type per source"));
        }
    }
}

/// A file may come from one source only.
fn claim_file(errors: &mut Errors, files: &mut BTreeSet<String>, file: &str, value: &str, path: &Path) {
    if !file.is_empty() && !files.insert(file.to_string()) {
        errors.push(FieldError::invalid(path, value, "conflicting duplicate paths"));
    }
}

fn named(errors: &mut Errors, s: &Value, files: &mut BTreeSet<String>, path: &Path, here: &Path) {
    needed(errors, s, "name", here);
    for (i, item) in list(s, "/items").iter().enumerate() {
        key_to_path(errors, item, &here.child("items").index(i));
        claim_file(errors, files, text(item, "/path"), text(s, "/name"), path);
    }
}

fn token(errors: &mut Errors, s: &Value, scene: &Scene<'_>, path: &Path, here: &Path) {
    let seconds = int(s, "/expirationSeconds").unwrap_or(0);
    let at = here.child("expirationSeconds");
    if seconds < 600 {
        let detail = "may not specify a duration less than 10 minutes";
        errors.push(FieldError::invalid(&at, seconds, detail));
    }
    if seconds > 1 << 32 {
        let detail = "may not specify a duration larger than 2^32 seconds";
        errors.push(FieldError::invalid(&at, seconds, detail));
    }
    let (file, place) = (text(s, "/path"), path.child("path"));
    if file.is_empty() {
        errors.push(FieldError::required(&place, ""));
    } else if !scene.old.is_some_and(has_stray_token) {
        unreserved_path(errors, file, &place);
    }
}

/// Whether a spec has a token at a path that would be refused today.
fn has_stray_token(spec: &Value) -> bool {
    let mut errors = Errors::new();
    for source in list(spec, "/volumes").iter().flat_map(|v| list(v, "/projected/sources")) {
        unreserved_path(&mut errors, text(source, "/serviceAccountToken/path"), &Path::new("path"));
    }
    !errors.is_empty()
}

fn trust_bundle(errors: &mut Errors, s: &Value, files: &mut BTreeSet<String>, path: &Path, here: &Path) {
    let string = |key: &str| given(s, key).and_then(Value::as_str);
    match (string("name"), string("signerName")) {
        (Some(_), Some(_)) => {
            let detail = "only one of name and signerName may be used";
            errors.push(FieldError::invalid(here, s.clone(), detail));
        }
        (Some(name), None) => {
            if name.is_empty() {
                errors.push(FieldError::required(&here.child("name"), "must be a valid object name"));
            }
            for message in names::is_dns1123_subdomain(&name.replace(':', ".")) {
                let detail = format!("not a valid clustertrustbundlename: {message}");
                errors.push(FieldError::invalid(&here.child("name"), name, detail));
            }
            if let Some(selector) = given(s, "labelSelector") {
                let detail = "labelSelector must be unset if name is specified";
                errors.push(FieldError::invalid(&here.child("labelSelector"), selector.clone(), detail));
            }
        }
        (None, Some(signer)) => {
            if signer.is_empty() {
                errors.push(FieldError::required(&here.child("signerName"), "must be a valid signer name"));
            }
            crate::certificates::validate_signer(errors, signer, &here.child("signerName"));
            check::label_selector(errors, s.get("labelSelector"), &here.child("labelSelector"));
        }
        (None, None) => {
            errors.push(FieldError::required(here, "either name or signerName must be specified"));
        }
    }
    needed(errors, s, "path", here);
    unreserved_path(errors, text(s, "/path"), &here.child("path"));
    claim_file(errors, files, text(s, "/path"), text(s, "/path"), path);
}

const KEY_TYPES: [&str; 6] = ["ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", "RSA3072", "RSA4096"];

fn certificate(errors: &mut Errors, s: &Value, files: &mut BTreeSet<String>, path: &Path, here: &Path) {
    crate::certificates::validate_signer(errors, text(s, "/signerName"), &here.child("signerName"));
    let kind = text(s, "/keyType");
    if !KEY_TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(&here.child("keyType"), kind, &KEY_TYPES));
    }
    if let Some(n) = int(s, "/maxExpirationSeconds") {
        let at = here.child("maxExpirationSeconds");
        if n < 3600 {
            errors.push(FieldError::invalid(&at, n, "if provided, maxExpirationSeconds must be >= 3600"));
        } else if n > 7_862_400 {
            errors.push(FieldError::invalid(&at, n, "if provided, maxExpirationSeconds must be <= 7862400"));
        }
    }
    let keys = ["credentialBundlePath", "keyPath", "certificateChainPath"];
    for key in keys {
        let file = text(s, &format!("/{key}"));
        unreserved_path(errors, file, &here.child(key));
        claim_file(errors, files, file, file, path);
    }
    if keys.iter().all(|k| text(s, &format!("/{k}")).is_empty()) {
        let detail = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        errors.push(FieldError::required(here, detail));
    }
    for (key, _) in map(s, "/userAnnotations").into_iter().flatten() {
        let at = here.child("userAnnotations").key(key);
        check::qualified_name(errors, &key.to_lowercase(), &at);
        check::names(errors, names::is_domain_prefixed_key(key), key.as_str().into(), &at);
    }
}
