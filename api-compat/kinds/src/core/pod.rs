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
    match ctx.subresource {
        None => keep(obj, old, "status"),
        Some("status") => update_status(obj, old),
        Some("ephemeralcontainers") => {
            let given = obj.pointer("/spec/ephemeralContainers").cloned();
            keep(obj, old, "status");
            keep(obj, old, "spec");
            keep_meta(obj, old);
            let spec = sub(obj, "spec");
            match given {
                Some(v) => spec["ephemeralContainers"] = v,
                None => crate::value::drop_key(spec, "ephemeralContainers"),
            }
        }
        Some("resize") => {
            podspec::keep_all_but_resources(obj, old);
            keep(obj, old, "status");
            keep_meta(obj, old);
        }
        Some(_) => {}
    }
}

/// Subresources that write one part of the spec leave the metadata alone.
fn keep_meta(obj: &mut Value, old: &Value) {
    if let (Some(new), Some(before)) = (obj.get_mut("metadata"), old.get("metadata")) {
        for key in ["labels", "annotations", "finalizers", "ownerReferences"] {
            keep(new, before, key);
        }
    }
}

/// The class is not told anew, and a kubelet that does not tell the observed generation does not clear it.
fn update_status(obj: &mut Value, old: &Value) {
    keep(obj, old, "spec");
    if let (Some(new), Some(before)) = (obj.get_mut("metadata"), old.get("metadata")) {
        keep(new, before, "ownerReferences");
    }
    let status = sub(obj, "status");
    if let Some(class) = old.pointer("/status/qosClass") {
        crate::value::fill(status, "qosClass", class.clone());
    }
    let observed = |v: &Value| int(v, "/observedGeneration").filter(|n| *n != 0);
    if let (None, Some(n)) = (observed(status), old.get("status").and_then(observed)) {
        status["observedGeneration"] = n.into();
    }
    let mut before: Vec<(&str, Option<i64>)> =
        list(old, "/status/conditions").iter().map(|c| (text(c, "/type"), observed(c))).collect();
    crate::value::each(status, "/conditions", |c| {
        let Some(i) = before.iter().position(|(kind, _)| *kind == text(c, "/type")) else { return };
        let (_, was) = before.remove(i);
        if let (None, Some(n)) = (observed(c), was) {
            c["observedGeneration"] = n.into();
        }
    });
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    podspec::validate_new_pod(obj)
}

fn validate_update(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    match ctx.subresource {
        None => podspec::validate_pod_update(obj, old),
        Some("ephemeralcontainers") => podspec::validate_ephemeral_update(obj, old),
        Some("resize") => podspec::validate_resize_update(obj, old),
        Some("status") => podspec::validate_status_update(obj, old),
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
