//! Validation of volumes: names, and that each has one source. The sources themselves are in [`super::sources`].

use std::collections::BTreeSet;

use knarr_machinery::{FieldError, Path};
use serde_json::Value;

use super::scene::{Scene, Volumes, given};
use super::sources;
use crate::check::{self, Errors};
use crate::value::{list, text};

/// The sources in the order in which upstream looks at them.
const SOURCES: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

/// Checks all volumes and returns those without errors: containers can mount no others.
pub(super) fn validate<'a>(errors: &mut Errors, scene: &Scene<'a>, path: &Path) -> Volumes<'a> {
    let volumes = list(scene.spec, "/volumes");
    let made: BTreeSet<String> = match scene.pod {
        Some(pod) if !pod.is_empty() => volumes
            .iter()
            .filter(|v| given(v, "ephemeral").is_some())
            .map(|v| format!("{pod}-{}", text(v, "/name")))
            .collect(),
        _ => BTreeSet::new(),
    };
    let mut known = Volumes::new();
    for (i, v) in volumes.iter().enumerate() {
        let at = path.index(i);
        let before = errors.len();
        validate_source(errors, v, scene, &at);
        let name = text(v, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        } else {
            check::dns_label(errors, name, &at.child("name"));
        }
        if known.contains_key(name) {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        }
        if errors.len() == before {
            known.insert(name, v);
        }
        let claim = text(v, "/persistentVolumeClaim/claimName");
        if made.contains(claim) {
            let at = at.child("persistentVolumeClaim").child("claimName");
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            errors.push(FieldError::invalid(&at, claim, detail));
        }
    }
    known
}

fn validate_source(errors: &mut Errors, v: &Value, scene: &Scene<'_>, path: &Path) {
    let mut found = false;
    for kind in SOURCES {
        let Some(source) = given(v, kind) else { continue };
        if found {
            // Two of these paths are upstream's slips, which clients see.
            let at = match kind {
                "cephfs" => path.child("cephFS"),
                "downwardAPI" => path.child("downwarAPI"),
                _ => path.child(kind),
            };
            errors.push(FieldError::forbidden(&at, "may not specify more than 1 volume type"));
        } else {
            let at = path.child(if kind == "gcePersistentDisk" { "persistentDisk" } else { kind });
            sources::validate(errors, kind, source, scene, &at);
            if kind == "ephemeral" {
                claim_name(errors, text(v, "/name"), scene, path);
            }
        }
        found = true;
        if kind == "iscsi" && given(source, "initiatorName").is_some() {
            let name = text(v, "/name");
            if name.len() + 1 + text(source, "/targetPortal").len() > 64 {
                let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
                errors.push(FieldError::invalid(&path.child("name"), name, detail));
            }
        }
    }
    if !found {
        errors.push(FieldError::required(path, "must specify a volume type"));
    }
}

/// The claim that is made for an ephemeral volume gets its name from pod and volume.
fn claim_name(errors: &mut Errors, volume: &str, scene: &Scene<'_>, path: &Path) {
    let Some(pod) = scene.pod.filter(|p| !p.is_empty() && !volume.is_empty()) else { return };
    let claim = format!("{pod}-{volume}");
    for message in knarr_machinery::names::is_dns1123_subdomain(&claim) {
        let detail = format!("PVC name {claim:?}: {message}");
        errors.push(FieldError::invalid(&path.child("name"), volume, detail));
    }
}
