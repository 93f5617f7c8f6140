//! Validation of Windows options, and of what pods for one operating system may not set.

use knarr_machinery::{FieldError, Path, names};
use serde_json::Value;

use super::scene::{containers, given};
use crate::check::{self, Errors};
use crate::value::{flag, is_empty, text};

/// `windowsOptions` of a security context.
pub(super) fn validate_options(errors: &mut Errors, context: &Value, path: &Path) {
    let Some(options) = given(context, "windowsOptions") else { return };
    let string = |key: &str| given(options, key).and_then(Value::as_str);
    if let Some(name) = string("gmsaCredentialSpecName") {
        let messages = names::is_dns1123_subdomain(name);
        check::names(errors, messages, name.into(), &path.child("gmsaCredentialSpecName"));
    }
    if let Some(spec) = string("gmsaCredentialSpec") {
        let at = path.child("gmsaCredentialSpec");
        if spec.is_empty() {
            errors.push(FieldError::invalid(&at, spec, "gmsaCredentialSpec cannot be an empty string"));
        } else if spec.len() > 64 * 1024 {
            errors.push(FieldError::invalid(&at, spec, "gmsaCredentialSpec size must be under 64 KiB"));
        }
    }
    if let Some(user) = string("runAsUserName") {
        for detail in user_name_problems(user) {
            errors.push(FieldError::invalid(&path.child("runAsUserName"), user, detail));
        }
    }
}

/// What is wrong with `DOMAIN\user`.
fn user_name_problems(name: &str) -> Vec<&'static str> {
    let parts: Vec<&str> = name.split('\\').collect();
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string"];
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters"];
    }
    let (domain, user) = match parts.as_slice() {
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => return vec!["runAsUserName cannot contain more than one backslash"],
    };
    let mut problems = Vec::new();
    if domain.is_some_and(|d| d.len() >= 256) {
        problems.push("runAsUserName's Domain length must be under 256 characters");
    }
    if domain.is_some_and(|d| !is_netbios(d) && !is_domain(d)) {
        problems.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format");
    }
    if user.is_empty() {
        problems.push("runAsUserName's User cannot be empty");
    } else if user.len() > 104 {
        problems.push("runAsUserName's User length must not be longer than 104 characters");
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        problems.push("runAsUserName's User cannot contain only periods or spaces");
    }
    if user.chars().any(|c| "\"/\\:;|=,+*?<>@[]".contains(c)) {
        problems.push("runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]");
    }
    problems
}

fn is_netbios(domain: &str) -> bool {
    let length = domain.chars().count();
    (1..=15).contains(&length)
        && !domain.starts_with('.')
        && !domain.chars().any(|c| "\\/:*?\"<>|".contains(c))
}

fn is_domain(domain: &str) -> bool {
    domain.split('.').all(|label| {
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        (1..=63).contains(&label.len())
            && ends(label.chars().next())
            && ends(label.chars().last())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    })
}

/// Host process containers: all or none, and on the network of the host.
pub(super) fn validate_host_process(errors: &mut Errors, spec: &Value, path: &Path) {
    const AT: &str = "/securityContext/windowsOptions/hostProcess";
    let of_pod = spec.pointer(AT).and_then(Value::as_bool);
    let (mut all, mut special) = (0, 0);
    for (key, i, c) in containers(spec) {
        all += 1;
        let own = c.pointer(AT).and_then(Value::as_bool);
        if let (Some(pod), Some(container)) = (of_pod, own)
            && pod != container
        {
            let at = path.child(key).index(i).child("securityContext").child("windowsOptions");
            let detail = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            errors.push(FieldError::invalid(&at.child("hostProcess"), container, detail));
        }
        if own.or(of_pod) == Some(true) {
            special += 1;
        }
    }
    if special == 0 {
        return;
    }
    if special != all {
        let detail =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.push(FieldError::invalid(path, "", detail));
    }
    if !flag(spec, "/hostNetwork") {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.push(FieldError::invalid(&path.child("hostNetwork"), false, detail));
    }
}

/// `spec.os`, and what does not go with it.
pub(super) fn validate_os(errors: &mut Errors, spec: &Value, path: &Path) {
    let Some(os) = given(spec, "os") else { return };
    match text(os, "/name") {
        "" => errors.push(FieldError::required(&path.child("os").child("name"), "cannot be empty")),
        "linux" => linux(errors, spec, path),
        "windows" => windows(errors, spec, path),
        other => errors.push(FieldError::not_supported(&path.child("os"), other, &["linux", "windows"])),
    }
}

fn linux(errors: &mut Errors, spec: &Value, path: &Path) {
    let detail = "windows options cannot be set for a linux pod";
    let mut refuse = |holder: &Value, at: &Path| {
        if holder.pointer("/securityContext/windowsOptions").is_some_and(|v| !v.is_null()) {
            errors.push(FieldError::forbidden(&at.child("securityContext").child("windowsOptions"), detail));
        }
    };
    refuse(spec, path);
    for (key, i, c) in containers(spec) {
        refuse(c, &path.child(key).index(i));
    }
}

const POD_FIELDS: [&str; 11] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];

const CONTAINER_FIELDS: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

fn windows(errors: &mut Errors, spec: &Value, path: &Path) {
    let mut refuse = |at: &Path, key: &str| {
        errors.push(FieldError::forbidden(&at.child(key), "cannot be set for a windows pod"));
    };
    let context = spec.get("securityContext").unwrap_or(&Value::Null);
    for key in POD_FIELDS {
        let set = if key == "sysctls" { !is_empty(context.get(key)) } else { given(context, key).is_some() };
        if set {
            refuse(&path.child("securityContext"), key);
        }
    }
    for key in ["hostUsers", "shareProcessNamespace"] {
        if given(spec, key).is_some() {
            refuse(path, key);
        }
    }
    for key in ["hostPID", "hostIPC"] {
        if flag(spec, &format!("/{key}")) {
            refuse(path, key);
        }
    }
    for (list, i, c) in containers(spec) {
        let context = c.get("securityContext").unwrap_or(&Value::Null);
        for key in CONTAINER_FIELDS.into_iter().filter(|k| given(context, k).is_some()) {
            refuse(&path.child(list).index(i).child("securityContext"), key);
        }
    }
}
