//! Warnings about pod specs that are valid and yet surely not meant.

use std::collections::BTreeMap;

use knarr_machinery::Path;
use knarr_machinery::quantity::Quantity;
use serde_json::Value;

use crate::kind::{Ctx, Warnings};
use crate::value::{int, list, map, text};

/// Warnings for a workload whose template is new or changed.
pub(crate) fn for_template(ctx: &Ctx<'_>, obj: &Value, old: Option<&Value>) -> Warnings {
    at_pointer(ctx, obj, old, "/spec/template", &Path::new("spec").child("template"))
}

/// Warnings for the template at a pointer.
pub(crate) fn at_pointer(
    ctx: &Ctx<'_>,
    obj: &Value,
    old: Option<&Value>,
    pointer: &str,
    path: &Path,
) -> Warnings {
    let template = obj.pointer(pointer);
    if ctx.subresource.is_some() || old.is_some_and(|o| o.pointer(pointer) == template) {
        return Warnings::new();
    }
    for_spec(template.and_then(|t| t.get("spec")).unwrap_or(&Value::Null), &path.child("spec"))
}

/// Warnings about a pod spec.
pub(crate) fn for_spec(spec: &Value, path: &Path) -> Warnings {
    let mut out = Warnings::new();
    for (key, new) in [
        ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
        ("beta.kubernetes.io/os", "kubernetes.io/os"),
        ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
        ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
        ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
    ] {
        if map(spec, "/nodeSelector").is_some_and(|m| m.contains_key(key)) {
            let since = if key.starts_with("beta.kubernetes.io/instance") || key.starts_with("failure") {
                "v1.17"
            } else {
                "v1.14"
            };
            out.push(format!(
                "{}: deprecated since {since}; use {new:?} instead",
                path.child("nodeSelector").key(key)
            ));
        }
    }
    for (i, volume) in list(spec, "/volumes").iter().enumerate() {
        if volume.get("gitRepo").is_some_and(|v| !v.is_null()) {
            out.push(format!("{}: deprecated in v1.11", path.child("volumes").index(i).child("gitRepo")));
        }
    }
    for (i, secret) in list(spec, "/imagePullSecrets").iter().enumerate() {
        if text(secret, "/name").is_empty() {
            let at = path.child("imagePullSecrets").index(i).child("name");
            out.push(format!("{at}: invalid empty name {:?}", ""));
        }
    }
    for key in ["initContainers", "containers"] {
        for (i, c) in list(spec, &format!("/{key}")).iter().enumerate() {
            container(&mut out, c, &path.child(key).index(i));
        }
    }
    if int(spec, "/terminationGracePeriodSeconds").is_some_and(|n| n < 0) {
        let at = path.child("terminationGracePeriodSeconds");
        out.push(format!("{at}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    out
}

fn container(out: &mut Warnings, c: &Value, path: &Path) {
    for list_name in ["limits", "requests"] {
        for resource in ["memory", "ephemeral-storage"] {
            let quantity = c.pointer(&format!("/resources/{list_name}/{resource}"));
            if let Some(q) = quantity.and_then(|v| Quantity::from_json(v).ok()).filter(|q| !q.is_integer()) {
                let at = path.child("resources").child(list_name).key(resource);
                out.push(format!(
                    "{at}: fractional byte value {:?} is invalid, must be an integer",
                    q.to_string()
                ));
            }
        }
    }
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, var) in list(c, "/env").iter().enumerate() {
        let given = text(var, "/name");
        if names.insert(given, i).is_some() && !given.is_empty() {
            let at = path.child("env").index(i);
            out.push(format!(
                "{at}: hides previous definition of {given:?}, which may be dropped when using apply"
            ));
        }
    }
    let mut ports: BTreeMap<(i64, &str, i64, &str), usize> = BTreeMap::new();
    for (i, p) in list(c, "/ports").iter().enumerate() {
        let number = int(p, "/containerPort").unwrap_or(0);
        let key = (number, text(p, "/protocol"), int(p, "/hostPort").unwrap_or(0), text(p, "/hostIP"));
        if let Some(first) = ports.insert(key, i) {
            let all = path.child("ports");
            out.push(format!("{}: duplicate port definition with {}", all.index(i), all.index(first)));
        }
    }
}
