//! Validation of security contexts.

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use crate::check::{self, Errors};
use crate::value::{flag, int, list, text};

fn ids(errors: &mut Errors, context: &Value, path: &Path) {
    if let Some(n) = int(context, "/runAsUser") {
        check::names(errors, names::is_valid_user_id(n), n.into(), &path.child("runAsUser"));
    }
    for key in ["runAsGroup", "fsGroup"] {
        if let Some(n) = int(context, &format!("/{key}")) {
            check::names(errors, names::is_valid_group_id(n), n.into(), &path.child(key));
        }
    }
    for (i, n) in list(context, "/supplementalGroups").iter().filter_map(Value::as_i64).enumerate() {
        check::names(
            errors,
            names::is_valid_group_id(n),
            n.into(),
            &path.child("supplementalGroups").index(i),
        );
    }
}

fn profiles(errors: &mut Errors, context: &Value, path: &Path) {
    for key in ["seccompProfile", "appArmorProfile"] {
        let Some(profile) = context.get(key).filter(|p| !p.is_null()) else { continue };
        let at = path.child(key);
        let (kind, local) = (text(profile, "/type"), text(profile, "/localhostProfile"));
        if kind == "Localhost" {
            if local.is_empty() {
                let what = if key == "seccompProfile" { "seccomp" } else { "AppArmor" };
                let detail = if what == "seccomp" {
                    "must be set when seccomp type is Localhost".to_string()
                } else {
                    "must be set when AppArmor type is Localhost".to_string()
                };
                errors.push(FieldError::required(&at.child("localhostProfile"), detail));
            } else if key == "seccompProfile" {
                super::containers::local_path(errors, local, &at.child("localhostProfile"));
            }
        } else if !local.is_empty() {
            let what = if key == "seccompProfile" { "seccomp" } else { "AppArmor" };
            errors.push(FieldError::invalid(
                &at.child("localhostProfile"),
                local,
                format!("can only be set when {what} type is Localhost"),
            ));
        }
        check::one_of(
            errors,
            kind,
            &at.child("type"),
            &["Localhost", "RuntimeDefault", "Unconfined"],
            Some("type is required"),
        );
    }
}

const SYSCTL_DETAIL: &str = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

/// `spec.securityContext` and the host flags.
pub(super) fn validate_pod(errors: &mut Errors, spec: &Value, path: &Path) {
    let at = path.child("securityContext");
    let Some(context) = spec.get("securityContext").filter(|c| !c.is_null()) else { return };
    ids(errors, context, &at);
    profiles(errors, context, &at);
    if flag(spec, "/shareProcessNamespace") && flag(spec, "/hostPID") {
        errors.push(FieldError::invalid(
            &path.child("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        ));
    }
    let policies = ["Always", "OnRootMismatch"];
    check::one_of(
        errors,
        text(context, "/fsGroupChangePolicy"),
        &at.child("fsGroupChangePolicy"),
        &policies,
        None,
    );
    check::one_of(
        errors,
        text(context, "/supplementalGroupsPolicy"),
        &at.child("supplementalGroupsPolicy"),
        &["Merge", "Strict"],
        None,
    );
    check::one_of(
        errors,
        text(context, "/seLinuxChangePolicy"),
        &at.child("seLinuxChangePolicy"),
        &["MountOption", "Recursive"],
        None,
    );
    let mut seen: Vec<&str> = Vec::new();
    for (i, s) in list(context, "/sysctls").iter().enumerate() {
        let here = at.child("sysctls").index(i).child("name");
        let given = text(s, "/name");
        let valid = given.split(['.', '/']).all(|p| {
            p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
                && !p.is_empty()
                && !p.starts_with(['-', '_'])
                && !p.ends_with(['-', '_'])
        });
        if given.is_empty() {
            errors.push(FieldError::required(&here, ""));
        } else if !valid || given.len() > 253 {
            errors.push(FieldError::invalid(&here, given, SYSCTL_DETAIL));
        } else if seen.contains(&given) {
            errors.push(FieldError::duplicate(&here, given));
        }
        seen.push(given);
        if flag(spec, "/hostNetwork") && given.starts_with("net.") {
            errors.push(FieldError::invalid(&here, given, "may not be specified when 'hostNetwork' is true"));
        }
        if flag(spec, "/hostIPC")
            && (given.starts_with("kernel.shm")
                || given.starts_with("kernel.msg")
                || given.starts_with("fs.mqueue."))
        {
            errors.push(FieldError::invalid(&here, given, "may not be specified when 'hostIPC' is true"));
        }
    }
    if spec.get("hostUsers").and_then(Value::as_bool) == Some(false) {
        for key in ["hostPID", "hostIPC", "hostNetwork"] {
            if flag(spec, &format!("/{key}")) {
                errors.push(FieldError::forbidden(&path.child(key), "when `hostUsers` is false"));
            }
        }
    }
}

/// The security context of a container.
pub(super) fn validate_container(errors: &mut Errors, context: &Value, path: &Path) {
    ids(errors, context, path);
    profiles(errors, context, path);
    check::one_of(
        errors,
        text(context, "/procMount"),
        &path.child("procMount"),
        &["Default", "Unmasked"],
        None,
    );
    if context.get("allowPrivilegeEscalation").and_then(Value::as_bool) == Some(false) {
        if flag(context, "/privileged") {
            errors.push(FieldError::invalid(
                path,
                context.clone(),
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            ));
        }
        if list(context, "/capabilities/add").iter().any(|c| c == "CAP_SYS_ADMIN") {
            errors.push(FieldError::invalid(
                path,
                context.clone(),
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            ));
        }
    }
}
