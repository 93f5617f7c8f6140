//! Validation of containers, init containers and ephemeral containers.

use std::collections::{BTreeMap, BTreeSet};

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use super::{env, probes, resources, security};
use crate::check::{self, Errors};
use crate::value::{flag, int, is_empty, list, text};

/// Names of the volumes, with whether each is a claim (usable as a device).
pub(super) type Volumes = BTreeMap<String, bool>;

/// Which list a container is in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Init,
    App,
    Ephemeral,
}

/// All containers of a pod spec.
pub(super) fn validate_all(errors: &mut Errors, spec: &Value, volumes: &Volumes, path: &Path) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut host_ports: BTreeSet<String> = BTreeSet::new();
    if list(spec, "/containers").is_empty() {
        errors.push(FieldError::required(&path.child("containers"), ""));
    }
    for (place, key) in [
        (Place::App, "containers"),
        (Place::Init, "initContainers"),
        (Place::Ephemeral, "ephemeralContainers"),
    ] {
        for (i, c) in list(spec, &format!("/{key}")).iter().enumerate() {
            let at = path.child(key).index(i);
            let given = text(c, "/name");
            if given.is_empty() {
                errors.push(FieldError::required(&at.child("name"), ""));
            } else {
                check::dns_label(errors, given, &at.child("name"));
                if !seen.insert(given) {
                    errors.push(FieldError::duplicate(&at.child("name"), given));
                }
            }
            validate_one(errors, c, place, volumes, &at);
            let sidecar = text(c, "/restartPolicy") == "Always";
            if place == Place::App || sidecar {
                validate_host_ports(errors, c, &mut host_ports, &at.child("ports"));
            }
            if flag(spec, "/hostNetwork") {
                for (j, p) in list(c, "/ports").iter().enumerate() {
                    let (host, container) =
                        (int(p, "/hostPort").unwrap_or(0), int(p, "/containerPort").unwrap_or(0));
                    if host != 0 && host != container {
                        let here = at.child("ports").index(j).child("hostPort");
                        errors.push(FieldError::invalid(
                            &here,
                            host,
                            "must match `containerPort` when `hostNetwork` is true",
                        ));
                    }
                }
            }
            if place == Place::Ephemeral {
                validate_ephemeral(errors, c, spec, &at);
            }
        }
    }
}

fn validate_one(errors: &mut Errors, c: &Value, place: Place, volumes: &Volumes, path: &Path) {
    let image = text(c, "/image");
    if image.is_empty() {
        errors.push(FieldError::required(&path.child("image"), ""));
    } else if image.trim() != image {
        errors.push(FieldError::invalid(
            &path.child("image"),
            image,
            "must not have leading or trailing whitespace",
        ));
    }
    let policies = ["Always", "IfNotPresent", "Never"];
    check::one_of(errors, text(c, "/imagePullPolicy"), &path.child("imagePullPolicy"), &policies, Some(""));
    let messages = ["FallbackToLogsOnError", "File"];
    check::one_of(
        errors,
        text(c, "/terminationMessagePolicy"),
        &path.child("terminationMessagePolicy"),
        &messages,
        Some(""),
    );
    validate_ports(errors, list(c, "/ports"), &path.child("ports"));
    env::validate(errors, list(c, "/env"), &path.child("env"));
    env::validate_from(errors, list(c, "/envFrom"), &path.child("envFrom"));
    validate_mounts(errors, c, volumes, path);
    resources::validate_requirements(
        errors,
        c.get("resources").unwrap_or(&Value::Null),
        &path.child("resources"),
    );
    if let Some(s) = c.get("securityContext").filter(|s| !s.is_null()) {
        security::validate_container(errors, s, &path.child("securityContext"));
    }
    validate_restart(errors, c, place, path);
    validate_restart_rules(errors, c, path);
    let sidecar = text(c, "/restartPolicy") == "Always";
    let hooks_allowed = place == Place::App || sidecar;
    for key in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(value) = c.get(key).filter(|v| !v.is_null()) else { continue };
        if hooks_allowed {
            probes::validate(errors, key, value, &path.child(key));
        } else if place == Place::Init {
            errors.push(FieldError::forbidden(
                &path.child(key),
                "may not be set for init containers without restartPolicy=Always",
            ));
        } else {
            errors.push(FieldError::forbidden(&path.child(key), "cannot be set for an Ephemeral Container"));
        }
    }
}

fn validate_restart(errors: &mut Errors, c: &Value, place: Place, path: &Path) {
    let policy = text(c, "/restartPolicy");
    if policy.is_empty() {
        return;
    }
    let at = path.child("restartPolicy");
    match place {
        Place::Ephemeral => {
            errors.push(FieldError::forbidden(&at, "cannot be set for an Ephemeral Container"))
        }
        Place::Init | Place::App => {
            check::one_of(errors, policy, &at, &["Always", "Never", "OnFailure"], None);
        }
    }
}

fn validate_restart_rules(errors: &mut Errors, c: &Value, path: &Path) {
    let rules = list(c, "/restartPolicyRules");
    let at = path.child("restartPolicyRules");
    if rules.len() > 20 {
        errors.push(FieldError::too_many(&at, rules.len(), 20));
    }
    if !rules.is_empty() && text(c, "/restartPolicy").is_empty() {
        let detail = "must specify restartPolicy when restart rules are used";
        errors.push(FieldError::required(&path.child("restartPolicy"), detail));
    }
    for (i, rule) in rules.iter().enumerate() {
        let here = at.index(i);
        let actions = ["Restart", "RestartAllContainers"];
        check::one_of(errors, text(rule, "/action"), &here.child("action"), &actions, Some(""));
        let codes = here.child("exitCodes");
        if is_empty(rule.get("exitCodes")) {
            errors.push(FieldError::required(&codes, "must be specified"));
            continue;
        }
        let operator = text(rule, "/exitCodes/operator");
        check::one_of(errors, operator, &codes.child("operator"), &["In", "NotIn"], Some(""));
        let values = list(rule, "/exitCodes/values");
        if values.len() > 255 {
            errors.push(FieldError::too_many(&codes.child("values"), values.len(), 255));
        }
    }
}

fn validate_ephemeral(errors: &mut Errors, c: &Value, spec: &Value, path: &Path) {
    for key in ["ports", "resources"] {
        if !is_empty(c.get(key)) {
            errors.push(FieldError::forbidden(&path.child(key), "cannot be set for an Ephemeral Container"));
        }
    }
    let target = text(c, "/targetContainerName");
    let known = list(spec, "/containers")
        .iter()
        .chain(list(spec, "/initContainers"))
        .any(|o| text(o, "/name") == target);
    if !target.is_empty() && !known {
        errors.push(FieldError::not_found(&path.child("targetContainerName"), target));
    }
    for (i, m) in list(c, "/volumeMounts").iter().enumerate() {
        for key in ["subPath", "subPathExpr"] {
            if !text(m, &format!("/{key}")).is_empty() {
                let at = path.child("volumeMounts").index(i).child(key);
                errors.push(FieldError::forbidden(&at, "cannot be set for an Ephemeral Container"));
            }
        }
    }
}

fn validate_ports(errors: &mut Errors, ports: &[Value], path: &Path) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        let given = text(port, "/name");
        if !given.is_empty() {
            let messages = names::is_valid_port_name(given);
            if messages.is_empty() && !seen.insert(given) {
                errors.push(FieldError::duplicate(&at.child("name"), given));
            }
            check::names(errors, messages, given.into(), &at.child("name"));
        }
        match int(port, "/containerPort").unwrap_or(0) {
            0 => errors.push(FieldError::required(&at.child("containerPort"), "")),
            n => check::port(errors, n, &at.child("containerPort")),
        }
        if let Some(n) = int(port, "/hostPort").filter(|n| *n != 0) {
            check::port(errors, n, &at.child("hostPort"));
        }
        let protocols = ["SCTP", "TCP", "UDP"];
        check::one_of(errors, text(port, "/protocol"), &at.child("protocol"), &protocols, Some(""));
    }
}

fn validate_host_ports(errors: &mut Errors, c: &Value, seen: &mut BTreeSet<String>, path: &Path) {
    for (i, port) in list(c, "/ports").iter().enumerate() {
        let Some(n) = int(port, "/hostPort").filter(|n| *n != 0) else { continue };
        let key = format!("{}/{}/{n}", text(port, "/protocol"), text(port, "/hostIP"));
        if !seen.insert(key.clone()) {
            errors.push(FieldError::duplicate(&path.index(i).child("hostPort"), key));
        }
    }
}

fn validate_mounts(errors: &mut Errors, c: &Value, volumes: &Volumes, path: &Path) {
    let mut paths: BTreeSet<&str> = BTreeSet::new();
    for (i, m) in list(c, "/volumeMounts").iter().enumerate() {
        let at = path.child("volumeMounts").index(i);
        let given = text(m, "/name");
        if given.is_empty() {
            errors.push(FieldError::required(&at.child("name"), ""));
        } else if !volumes.contains_key(given) {
            errors.push(FieldError::not_found(&at.child("name"), given));
        }
        let mount = text(m, "/mountPath");
        if mount.is_empty() {
            errors.push(FieldError::required(&at.child("mountPath"), ""));
        } else if !paths.insert(mount) {
            errors.push(FieldError::invalid(&at.child("mountPath"), mount, "must be unique"));
        }
        for key in ["subPath", "subPathExpr"] {
            local_path(errors, text(m, &format!("/{key}")), &at.child(key));
        }
        if !text(m, "/subPath").is_empty() && !text(m, "/subPathExpr").is_empty() {
            errors.push(FieldError::invalid(
                &at.child("subPathExpr"),
                text(m, "/subPathExpr"),
                "subPathExpr and subPath are mutually exclusive",
            ));
        }
        let propagation = text(m, "/mountPropagation");
        let modes = ["Bidirectional", "HostToContainer", "None"];
        check::one_of(errors, propagation, &at.child("mountPropagation"), &modes, None);
        if propagation == "Bidirectional" && !flag(c, "/securityContext/privileged") {
            errors.push(FieldError::forbidden(
                &at.child("mountPropagation"),
                "Bidirectional mount propagation is available only to privileged containers",
            ));
        }
    }
    let mut devices: BTreeSet<&str> = BTreeSet::new();
    for (i, d) in list(c, "/volumeDevices").iter().enumerate() {
        let at = path.child("volumeDevices").index(i);
        let (given, device) = (text(d, "/name"), text(d, "/devicePath"));
        match volumes.get(given) {
            _ if given.is_empty() => errors.push(FieldError::required(&at.child("name"), "")),
            None => errors.push(FieldError::not_found(&at.child("name"), given)),
            Some(false) => errors.push(FieldError::invalid(
                &at.child("name"),
                given,
                "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
            )),
            Some(true) => {}
        }
        if device.is_empty() {
            errors.push(FieldError::required(&at.child("devicePath"), ""));
        } else if !devices.insert(device) {
            errors.push(FieldError::invalid(&at.child("devicePath"), device, "must be unique"));
        } else if paths.contains(device) {
            errors.push(FieldError::invalid(
                &at.child("devicePath"),
                device,
                "must not already exist as a path in volumeMounts",
            ));
        }
    }
}

/// A relative path without `..`.
pub(super) fn local_path(errors: &mut Errors, value: &str, path: &Path) {
    if value.starts_with('/') {
        errors.push(FieldError::invalid(path, value, "must be a relative path"));
    }
    if value.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path, value, "must not contain '..'"));
    }
}
