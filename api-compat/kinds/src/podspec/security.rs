//! Validation of security contexts.

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use super::mounts::local_path;
use super::scene::{Scene, containers, given};
use super::windows;
use crate::check::{self, Errors};
use crate::value::{flag, go_form, int, list, text};

fn ids(errors: &mut Errors, context: &Value, path: &Path) {
    for key in ["fsGroup", "runAsUser", "runAsGroup"] {
        let Some(n) = int(context, &format!("/{key}")) else { continue };
        let messages = match key {
            "runAsUser" => names::is_valid_user_id(n),
            _ => names::is_valid_group_id(n),
        };
        check::names(errors, messages, n.into(), &path.child(key));
    }
    for (i, n) in list(context, "/supplementalGroups").iter().filter_map(Value::as_i64).enumerate() {
        let at = path.child("supplementalGroups").index(i);
        check::names(errors, names::is_valid_group_id(n), n.into(), &at);
    }
}

const PROFILE_TYPES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

fn seccomp(errors: &mut Errors, context: &Value, path: &Path) {
    let Some(profile) = given(context, "seccompProfile") else { return };
    let at = path.child("seccompProfile");
    let kind = text(profile, "/type");
    let required = Some("type is required when seccompProfile is set");
    check::one_of(errors, kind, &at.child("type"), &PROFILE_TYPES, required);
    let local = at.child("localhostProfile");
    match (kind, given(profile, "localhostProfile").and_then(Value::as_str)) {
        ("Localhost", None) => {
            errors.push(FieldError::required(&local, "must be set when seccomp type is Localhost"));
        }
        ("Localhost", Some(file)) => local_path(errors, file, &local),
        (_, Some(_)) => {
            let detail = "can only be set when seccomp type is Localhost";
            let fields = [("Type", "type", "\"\""), ("LocalhostProfile", "localhostProfile", "null")];
            let shown = go_form(profile, &fields);
            errors.push(FieldError::invalid(&local, profile.clone(), detail).shown_as(shown));
        }
        (_, None) => {}
    }
}

fn app_armor(errors: &mut Errors, context: &Value, path: &Path) {
    let Some(profile) = given(context, "appArmorProfile") else { return };
    let at = path.child("appArmorProfile");
    let kind = text(profile, "/type");
    let required = Some("type is required when appArmorProfile is set");
    check::one_of(errors, kind, &at.child("type"), &PROFILE_TYPES, required);
    let local = at.child("localhostProfile");
    let given = given(profile, "localhostProfile").and_then(Value::as_str);
    match kind {
        "Localhost" => {
            let name = given.unwrap_or_default();
            if name.trim() != name {
                errors.push(FieldError::invalid(&local, name, "must not be padded with whitespace"));
            } else if name.is_empty() {
                errors.push(FieldError::required(&local, "must be set when AppArmor type is Localhost"));
            }
            if name.len() > 4095 {
                errors.push(FieldError::too_long(&local, 4095));
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if let Some(name) = given {
                let detail = "can only be set when AppArmor type is Localhost";
                errors.push(FieldError::invalid(&local, name, detail));
            }
        }
        _ => {}
    }
}

const SYSCTL_DETAIL: &str = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

fn is_sysctl(name: &str) -> bool {
    let plain = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    name.len() <= 253
        && name.split(['.', '/']).all(|part| {
            plain(part.chars().next())
                && plain(part.chars().last())
                && part.chars().all(|c| plain(Some(c)) || matches!(c, '-' | '_'))
        })
}

/// The host namespace that a kernel parameter belongs to, as the field that shares it.
fn shares(sysctl: &str) -> Option<&'static str> {
    // Slashes part the elements when the first separator is one; dots are then part of names.
    let normal = match sysctl.find(['.', '/']).map(|i| sysctl.as_bytes()[i]) {
        Some(b'/') => sysctl
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => sysctl.to_string(),
    };
    const IPC: [&str; 10] = [
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.shm",
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.msg",
    ];
    if IPC.contains(&normal.as_str()) || normal.starts_with("fs.mqueue.") {
        Some("hostIPC")
    } else if normal.starts_with("net.") {
        Some("hostNetwork")
    } else {
        None
    }
}

fn sysctls(errors: &mut Errors, scene: &Scene<'_>, context: &Value, path: &Path) {
    let mut seen: Vec<&str> = Vec::new();
    let conflicts = |spec: &Value, name: &str| shares(name).filter(|f| flag(spec, &format!("/{f}")));
    let tolerated = scene.old.is_some_and(|old| {
        list(old, "/securityContext/sysctls").iter().any(|s| conflicts(old, text(s, "/name")).is_some())
    });
    for (i, s) in list(context, "/sysctls").iter().enumerate() {
        let at = path.index(i).child("name");
        let name = text(s, "/name");
        if name.is_empty() {
            errors.push(FieldError::required(&at, ""));
        } else if !is_sysctl(name) {
            errors.push(FieldError::invalid(&at, name, SYSCTL_DETAIL));
        } else if seen.contains(&name) {
            errors.push(FieldError::duplicate(&at, name));
        }
        seen.push(name);
        if let Some(field) = conflicts(scene.spec, name).filter(|_| !tolerated) {
            let detail = format!("may not be specified when '{field}' is true");
            errors.push(FieldError::invalid(&at, name, detail));
        }
    }
}

/// `spec.securityContext` and the host flags.
pub(super) fn validate_pod(errors: &mut Errors, scene: &Scene<'_>, path: &Path) {
    let spec = scene.spec;
    let at = path.child("securityContext");
    if flag(spec, "/shareProcessNamespace") && flag(spec, "/hostPID") {
        // Upstream keeps the field inside the security context of its internal type, and reports it there.
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(&at.child("shareProcessNamespace"), true, detail));
    }
    let Some(context) = given(spec, "securityContext") else { return };
    ids(errors, context, &at);
    sysctls(errors, scene, context, &at.child("sysctls"));
    seccomp(errors, context, &at);
    windows::validate_options(errors, context, &at.child("windowsOptions"));
    app_armor(errors, context, &at);
    for (key, valid) in [
        ("fsGroupChangePolicy", ["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", ["Merge", "Strict"]),
        ("seLinuxChangePolicy", ["MountOption", "Recursive"]),
    ] {
        let Some(value) = given(context, key).and_then(Value::as_str) else { continue };
        if !valid.contains(&value) {
            errors.push(FieldError::not_supported(&at.child(key), value, &valid));
        }
    }
}

/// A pod in its own user namespace shares no namespace with the host.
pub(super) fn validate_host_users(errors: &mut Errors, scene: &Scene<'_>, path: &Path) {
    if scene.host_users {
        return;
    }
    for key in ["hostNetwork", "hostPID", "hostIPC"] {
        if flag(scene.spec, &format!("/{key}")) {
            errors.push(FieldError::forbidden(&path.child(key), "when `hostUsers` is false"));
        }
    }
    let devices = |c: &Value| !list(c, "/volumeDevices").is_empty();
    let tolerated = scene.old.is_some_and(|old| containers(old).any(|(_, _, c)| devices(c)));
    for (key, i, _) in containers(scene.spec).filter(|(_, _, c)| devices(c) && !tolerated) {
        let at = path.child(key).index(i).child("volumeDevices");
        errors.push(FieldError::forbidden(&at, "when `hostUsers` is false"));
    }
}

/// The security context of a container.
pub(super) fn validate_container(errors: &mut Errors, context: &Value, host_users: bool, path: &Path) {
    ids(errors, context, path);
    if let Some(mount) = given(context, "procMount").and_then(Value::as_str) {
        let at = path.child("procMount");
        if !matches!(mount, "Default" | "Unmasked") {
            errors.push(FieldError::not_supported(&at, mount, &["Default", "Unmasked"]));
        }
        if host_users && mount == "Unmasked" {
            let detail = "`hostUsers` must be false to use `Unmasked`";
            errors.push(FieldError::invalid(&at, mount, detail));
        }
    }
    seccomp(errors, context, path);
    if context.get("allowPrivilegeEscalation").and_then(Value::as_bool) == Some(false) {
        let mut wrong = |what: &str| {
            let detail = format!("cannot set `allowPrivilegeEscalation` to false and {what}");
            errors.push(FieldError::invalid(path, context.clone(), detail));
        };
        if flag(context, "/privileged") {
            wrong("`privileged` to true");
        }
        if list(context, "/capabilities/add").iter().any(|c| c == "CAP_SYS_ADMIN") {
            wrong("`capabilities.Add` CAP_SYS_ADMIN");
        }
    }
    windows::validate_options(errors, context, &path.child("windowsOptions"));
    app_armor(errors, context, path);
}
