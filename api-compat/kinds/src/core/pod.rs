//! Pod, with all its subresources.

mod row;

use knarr_machinery::{FieldError, Path, Str};
use serde_json::{Value, json};

use crate::facts::{AGE, Facts, GET_PATCH_UPDATE, NAME, PROXY};
use crate::kind::{Ctx, DeletePlan, Kind, Verb};
use crate::podspec;
use crate::ruleset::{PLAIN, RuleSet, keep};
use crate::value::{flag, int, list, sub, text};

static RULES: RuleSet = RuleSet {
    default: podspec::default_pod,
    create,
    update,
    validate,
    validate_update: Some(validate_update),
    warnings: |ctx, obj, old| {
        if ctx.subresource.is_some() || old.is_some() {
            return Vec::new();
        }
        podspec::warnings::for_spec(obj.get("spec").unwrap_or(&Value::Null), &Path::new("spec"))
    },
    row: row::row,
    fields,
    delete,
    ..PLAIN
};

const SELECTABLE: &[&str] = &[
    "spec.hostNetwork",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.nominatedNodeName",
    "status.phase",
    "status.podIP",
];

pub(crate) fn kind() -> Kind {
    let connect = &[Verb::Create, Verb::Get];
    Facts::new("", "v1", "Pod", "pods")
        .namespaced()
        .short(&["po"])
        .categories(&["all"])
        .generation()
        .sub("attach", ("", "v1", "PodAttachOptions"), connect)
        .sub("binding", ("", "v1", "Binding"), &[Verb::Create])
        .sub_self("ephemeralcontainers", GET_PATCH_UPDATE)
        .sub("eviction", ("policy", "v1", "Eviction"), &[Verb::Create])
        .sub("exec", ("", "v1", "PodExecOptions"), connect)
        .sub_self("log", &[Verb::Get])
        .sub("portforward", ("", "v1", "PodPortForwardOptions"), connect)
        .sub("proxy", ("", "v1", "PodProxyOptions"), PROXY)
        .sub_self("resize", GET_PATCH_UPDATE)
        .status()
        .columns(&[
            NAME,
            ("Ready", "string", 0, "Ready containers of all containers."),
            ("Status", "string", 0, "State of the containers in one word."),
            ("Restarts", "string", 0, "Restarts of the containers, and when the last one was."),
            AGE,
            ("IP", "string", 1, "Address of the pod."),
            ("Node", "string", 1, "Node of the pod."),
            ("Nominated Node", "string", 1, "Node that the pod shall get after preemption."),
            ("Readiness Gates", "string", 1, "Further conditions for readiness."),
        ])
        .selectable(SELECTABLE)
        .build(&RULES)
}

fn create(_ctx: &Ctx<'_>, obj: &mut Value) {
    podspec::merge_label_keys(obj);
    let class = podspec::qos_class(obj.get("spec").unwrap_or(&Value::Null));
    let mut status = json!({"phase": "Pending", "qosClass": class});
    if !list(obj, "/spec/schedulingGates").is_empty() {
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null, "lastTransitionTime": null,
        }]);
    }
    if let Some(map) = obj.as_object_mut() {
        map.insert("status".to_string(), status);
    }
}

/// The main resource keeps the status; `status` keeps the spec; the others keep everything but their own part.
fn update(ctx: &Ctx<'_>, obj: &mut Value, old: &Value) {
    let take_only = |obj: &mut Value, keys: &[&str]| {
        let given: Vec<(&str, Option<Value>)> =
            keys.iter().map(|k| (*k, obj.pointer(&format!("/spec/{k}")).cloned())).collect();
        keep(obj, old, "spec");
        let spec = sub(obj, "spec");
        for (key, value) in given {
            match value {
                Some(v) => spec[key] = v,
                None => crate::value::drop_key(spec, key),
            }
        }
    };
    match ctx.subresource {
        None => keep(obj, old, "status"),
        Some("status") => {
            keep(obj, old, "spec");
            if let (Some(new), Some(before)) = (obj.get_mut("metadata"), old.get("metadata")) {
                keep(new, before, "ownerReferences");
            }
            let class = old.pointer("/status/qosClass").cloned();
            if let Some(c) = class {
                crate::value::fill(sub(obj, "status"), "qosClass", c);
            }
        }
        Some("ephemeralcontainers") => {
            keep(obj, old, "status");
            take_only(obj, &["ephemeralContainers"]);
        }
        Some("resize") => {
            keep(obj, old, "status");
            take_only(obj, &["containers", "initContainers", "resources"]);
        }
        Some(_) => {}
    }
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let spec = obj.get("spec").unwrap_or(&Value::Null);
    let path = Path::new("spec");
    let mut errors = podspec::validate_spec(spec, &path);
    if !list(spec, "/ephemeralContainers").is_empty() {
        errors.push(FieldError::forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
    }
    if !text(spec, "/nodeName").is_empty() && !list(spec, "/schedulingGates").is_empty() {
        errors.push(FieldError::forbidden(
            &path.child("nodeName"),
            "cannot be set until all schedulingGates have been cleared",
        ));
    }
    errors
}

fn validate_update(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    match ctx.subresource {
        None => podspec::validate_pod_update(obj, old),
        Some("ephemeralcontainers") => {
            let mut errors = podspec::validate_spec(&obj["spec"], &Path::new("spec"));
            errors.extend(podspec::validate_ephemeral_update(obj, old));
            errors
        }
        Some("resize") => {
            let mut errors = podspec::validate_spec(&obj["spec"], &Path::new("spec"));
            errors.extend(podspec::validate_resize_update(obj, old));
            errors
        }
        Some("status") => {
            let (new, before) =
                (text(obj, "/status/nominatedNodeName"), text(old, "/status/nominatedNodeName"));
            let mut errors = Vec::new();
            if new != before && !new.is_empty() {
                crate::check::dns_subdomain(
                    &mut errors,
                    new,
                    &Path::new("status").child("nominatedNodeName"),
                );
            }
            errors
        }
        Some(_) => Vec::new(),
    }
}

/// The grace that was asked for or that the spec gives; none for pods that never ran or have ended.
fn delete(obj: &Value, requested: Option<i64>) -> DeletePlan {
    let mut seconds = requested.or_else(|| int(obj, "/spec/terminationGracePeriodSeconds")).unwrap_or(30);
    if text(obj, "/spec/nodeName").is_empty() || matches!(text(obj, "/status/phase"), "Failed" | "Succeeded")
    {
        seconds = 0;
    }
    match seconds {
        0 => DeletePlan::Now,
        n if n < 0 => DeletePlan::Graceful(1),
        n => DeletePlan::Graceful(n),
    }
}

fn fields(obj: &Value) -> Vec<(Str, String)> {
    SELECTABLE
        .iter()
        .map(|k| {
            let pointer = format!("/{}", k.replace('.', "/"));
            let value = match *k {
                "spec.hostNetwork" => flag(obj, &pointer).to_string(),
                "status.podIP" => match list(obj, "/status/podIPs").first() {
                    Some(ip) => text(ip, "/ip").to_string(),
                    None => text(obj, &pointer).to_string(),
                },
                _ => text(obj, &pointer).to_string(),
            };
            ((*k).into(), value)
        })
        .collect()
}

#[cfg(test)]
mod tests;
