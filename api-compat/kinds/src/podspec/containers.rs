//! Validation of containers, init containers and ephemeral containers.

use std::collections::BTreeSet;

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use super::scene::{Scene, given};
use super::{env, mounts, probes, resources, security};
use crate::check::{self, Errors};
use crate::value::{int, is_empty, list, text};

const HOOKS: [&str; 4] = ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"];
const NOT_EPHEMERAL: &str = "cannot be set for an Ephemeral Container";

/// All containers of a pod spec.
pub(super) fn validate_all(errors: &mut Errors, scene: &Scene<'_>, path: &Path) {
    validate_apps(errors, scene, &path.child("containers"));
    validate_inits(errors, scene, &path.child("initContainers"));
    validate_ephemerals(errors, scene, &path.child("ephemeralContainers"));
}

fn validate_apps(errors: &mut Errors, scene: &Scene<'_>, path: &Path) {
    let all = list(scene.spec, "/containers");
    if all.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, c) in all.iter().enumerate() {
        let at = path.index(i);
        validate_common(errors, scene, c, &at);
        let name = text(c, "/name");
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        }
        for key in HOOKS {
            if let Some(value) = given(c, key) {
                probes::validate(errors, key, value, scene.grace, &at.child(key));
            }
        }
        validate_restart(errors, c, &at);
    }
    let mut ports = BTreeSet::new();
    for (i, c) in all.iter().enumerate() {
        validate_host_ports(errors, c, &mut ports, &path.index(i).child("ports"));
    }
}

fn validate_inits(errors: &mut Errors, scene: &Scene<'_>, path: &Path) {
    let mut seen: BTreeSet<&str> = list(scene.spec, "/containers").iter().map(|c| text(c, "/name")).collect();
    for (i, c) in list(scene.spec, "/initContainers").iter().enumerate() {
        let at = path.index(i);
        validate_common(errors, scene, c, &at);
        validate_restart(errors, c, &at);
        let name = text(c, "/name");
        if seen.contains(name) {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        } else if !name.is_empty() {
            seen.insert(name);
        }
        // Init containers run one by one: only ports of the same one can collide.
        validate_host_ports(errors, c, &mut BTreeSet::new(), &path.index(0).child("ports"));
        let sidecar = text(c, "/restartPolicy") == "Always";
        for key in HOOKS {
            let Some(value) = given(c, key) else { continue };
            if sidecar {
                probes::validate(errors, key, value, scene.grace, &at.child(key));
            } else {
                let detail = "may not be set for init containers without restartPolicy=Always";
                errors.push(FieldError::forbidden(&at.child(key), detail));
            }
        }
    }
}

fn validate_ephemerals(errors: &mut Errors, scene: &Scene<'_>, path: &Path) {
    let others: BTreeSet<&str> = list(scene.spec, "/containers")
        .iter()
        .chain(list(scene.spec, "/initContainers"))
        .map(|c| text(c, "/name"))
        .collect();
    let mut seen = others.clone();
    for (i, c) in list(scene.spec, "/ephemeralContainers").iter().enumerate() {
        let at = path.index(i);
        validate_common(errors, scene, c, &at);
        untrimmed_image(errors, c, &at);
        let name = text(c, "/name");
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&at.child("name"), name));
        }
        let target = text(c, "/targetContainerName");
        if !target.is_empty() && !others.contains(target) {
            errors.push(FieldError::not_found(&at.child("targetContainerName"), target));
        }
        let other = ["ports", "resources", "resizePolicy", "restartPolicy", "restartPolicyRules"];
        for key in other.into_iter().chain(HOOKS) {
            if !says_nothing(c.get(key)) {
                errors.push(FieldError::forbidden(&at.child(key), NOT_EPHEMERAL));
            }
        }
        for (j, m) in list(c, "/volumeMounts").iter().enumerate() {
            for key in ["subPath", "subPathExpr"] {
                if !text(m, &format!("/{key}")).is_empty() {
                    let at = at.child("volumeMounts").index(j).child(key);
                    errors.push(FieldError::forbidden(&at, NOT_EPHEMERAL));
                }
            }
        }
    }
}

/// Absent, null, empty, or made of such values only.
fn says_nothing(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Object(m)) => m.values().all(|v| says_nothing(Some(v))),
        v => is_empty(v),
    }
}

/// What all three sorts of containers obey.
fn validate_common(errors: &mut Errors, scene: &Scene<'_>, c: &Value, path: &Path) {
    let name = text(c, "/name");
    if name.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    } else {
        check::dns_label(errors, name, &path.child("name"));
    }
    if text(c, "/image").is_empty() {
        errors.push(FieldError::required(&path.child("image"), ""));
    }
    let messages = ["File", "FallbackToLogsOnError"];
    let policy = text(c, "/terminationMessagePolicy");
    check::one_of(errors, policy, &path.child("terminationMessagePolicy"), &messages, Some(""));
    validate_ports(errors, list(c, "/ports"), &path.child("ports"));
    env::validate(errors, list(c, "/env"), scene, &path.child("env"));
    env::validate_from(errors, list(c, "/envFrom"), &path.child("envFrom"));
    mounts::validate(errors, c, &scene.volumes, path);
    validate_pull_policy(errors, text(c, "/imagePullPolicy"), &path.child("imagePullPolicy"));
    let requirements = c.get("resources").unwrap_or(&Value::Null);
    resources::validate_container(errors, requirements, Some(&scene.claims), &path.child("resources"));
    validate_resize_policy(errors, c, text(scene.spec, "/restartPolicy"), &path.child("resizePolicy"));
    if let Some(s) = given(c, "securityContext") {
        security::validate_container(errors, s, scene.host_users, &path.child("securityContext"));
    }
}

/// Always, IfNotPresent or Never; also of image volumes.
pub(super) fn validate_pull_policy(errors: &mut Errors, policy: &str, path: &Path) {
    check::one_of(errors, policy, path, &["Always", "IfNotPresent", "Never"], Some(""));
}

/// Pods, unlike templates, may not pad the image with spaces.
pub(super) fn untrimmed_image(errors: &mut Errors, c: &Value, path: &Path) {
    let image = text(c, "/image");
    if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(&path.child("image"), image, detail));
    }
}

fn validate_restart(errors: &mut Errors, c: &Value, path: &Path) {
    let policy = text(c, "/restartPolicy");
    check::one_of(errors, policy, &path.child("restartPolicy"), &["Always", "Never", "OnFailure"], None);
    let rules = list(c, "/restartPolicyRules");
    let at = path.child("restartPolicyRules");
    if !rules.is_empty() && policy.is_empty() {
        let detail = "must specify restartPolicy when restart rules are used";
        errors.push(FieldError::required(&path.child("restartPolicy"), detail));
    }
    if rules.len() > 20 {
        errors.push(FieldError::too_many(&at, rules.len(), 20));
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

fn validate_resize_policy(errors: &mut Errors, c: &Value, pod_policy: &str, path: &Path) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, p) in list(c, "/resizePolicy").iter().enumerate() {
        let (resource, restart) = (text(p, "/resourceName"), text(p, "/restartPolicy"));
        if !seen.insert(resource) {
            errors.push(FieldError::duplicate(&path.index(i), resource));
        }
        check::one_of(errors, resource, path, &["cpu", "memory"], Some(""));
        check::one_of(errors, restart, path, &["NotRequired", "RestartContainer"], Some(""));
        if pod_policy == "Never" && restart != "NotRequired" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(path, restart, detail));
        }
    }
}

fn validate_ports(errors: &mut Errors, ports: &[Value], path: &Path) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        let name = text(port, "/name");
        if !name.is_empty() {
            let messages = names::is_valid_port_name(name);
            if messages.is_empty() && !seen.insert(name) {
                errors.push(FieldError::duplicate(&at.child("name"), name));
            }
            check::names(errors, messages, name.into(), &at.child("name"));
        }
        match int(port, "/containerPort").unwrap_or(0) {
            0 => errors.push(FieldError::required(&at.child("containerPort"), "")),
            n => check::port(errors, n, &at.child("containerPort")),
        }
        if let Some(n) = int(port, "/hostPort").filter(|n| *n != 0) {
            check::port(errors, n, &at.child("hostPort"));
        }
        check::protocol(errors, text(port, "/protocol"), &at.child("protocol"));
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
