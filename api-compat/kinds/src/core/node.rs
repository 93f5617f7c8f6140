//! Node.

use knarr_machinery::{FieldError, Path, Str, names};
use serde_json::{Value, json};

use crate::check;
use crate::facts::{AGE, Facts, NAME, PROXY};
use crate::kind::{Ctx, Kind};
use crate::podspec::canonical_quantities;
use crate::ruleset::{PLAIN, RuleSet, keep};
use crate::value::{age, flag, list, map, name, or_none, text, with};

static RULES: RuleSet = RuleSet {
    default,
    create: |_, obj| {
        crate::value::fill(obj, "spec", json!({}));
    },
    update: |ctx, obj, old| {
        if ctx.subresource == Some("status") {
            keep(obj, old, "spec");
        } else {
            keep(obj, old, "status");
        }
    },
    validate,
    validate_update: Some(validate_update),
    row,
    fields: |obj| vec![(Str::from("spec.unschedulable"), flag(obj, "/spec/unschedulable").to_string())],
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new("", "v1", "Node", "nodes")
        .short(&["no"])
        .sub("proxy", ("", "v1", "NodeProxyOptions"), PROXY)
        .status()
        .columns(&[
            NAME,
            ("Status", "string", 0, "Whether the node is ready and schedulable."),
            ("Roles", "string", 0, "Roles of the node."),
            AGE,
            ("Version", "string", 0, "Version of the kubelet."),
            ("Internal-IP", "string", 1, "Address within the cluster."),
            ("External-IP", "string", 1, "Address from outside."),
            ("OS-Image", "string", 1, "Operating system."),
            ("Kernel-Version", "string", 1, "Kernel version."),
            ("Container-Runtime", "string", 1, "Container runtime and version."),
        ])
        .selectable(&["spec.unschedulable"])
        .build(&RULES)
}

/// Allocatable defaults to capacity; quantities take canonical form.
fn default(obj: &mut Value) {
    with(obj, "/status", |status| {
        if crate::value::is_empty(status.get("allocatable"))
            && let Some(capacity) = status.get("capacity").filter(|c| !c.is_null()).cloned()
        {
            status["allocatable"] = capacity;
        }
        canonical_quantities(status, "/capacity");
        canonical_quantities(status, "/allocatable");
    });
    with(obj, "/spec", |spec| {
        let cidr = text(spec, "/podCIDR").to_string();
        if !cidr.is_empty() && list(spec, "/podCIDRs").is_empty() {
            spec["podCIDRs"] = json!([cidr]);
        } else if cidr.is_empty()
            && let Some(first) = list(spec, "/podCIDRs").first().cloned()
        {
            spec["podCIDR"] = first;
        }
    });
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (i, taint) in list(obj, "/spec/taints").iter().enumerate() {
        let at = spec.child("taints").index(i);
        let (key, value, effect) = (text(taint, "/key"), text(taint, "/value"), text(taint, "/effect"));
        check::qualified_name(&mut errors, key, &at.child("key"));
        let messages = names::is_label_value(value);
        if !messages.is_empty() {
            errors.push(FieldError::invalid(&at.child("value"), value, messages.join(";")));
        }
        let effects = ["NoExecute", "NoSchedule", "PreferNoSchedule"];
        check::one_of(&mut errors, effect, &at.child("effect"), &effects, Some(""));
        if seen.contains(&(key, effect)) {
            let mut e = FieldError::duplicate(&at, taint.clone());
            e.detail = "taints must be unique by key and effect pair".to_string();
            errors.push(e);
        }
        seen.push((key, effect));
    }
    for (i, cidr) in list(obj, "/spec/podCIDRs").iter().filter_map(Value::as_str).enumerate() {
        check::names(&mut errors, names::is_cidr(cidr), cidr.into(), &spec.child("podCIDRs").index(i));
    }
    errors
}

fn validate_update(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = validate(ctx, obj);
    let spec = Path::new("spec");
    let before = list(old, "/spec/podCIDRs");
    if !before.is_empty() && list(obj, "/spec/podCIDRs") != before {
        errors.push(FieldError::forbidden(
            &spec.child("podCIDRs"),
            "node updates may not change podCIDR except from \"\" to valid",
        ));
    }
    let provider = text(old, "/spec/providerID");
    if !provider.is_empty() && text(obj, "/spec/providerID") != provider {
        errors.push(FieldError::forbidden(
            &spec.child("providerID"),
            "node updates may not change providerID except from \"\" to valid",
        ));
    }
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let mut status = match crate::value::condition(obj, "Ready").map(|c| text(c, "/status")) {
        Some("True") => "Ready".to_string(),
        Some(_) => "NotReady".to_string(),
        None => "Unknown".to_string(),
    };
    if flag(obj, "/spec/unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in map(obj, "/metadata/labels").into_iter().flatten() {
        let role = key.strip_prefix("node-role.kubernetes.io/").unwrap_or("");
        let role = if key == "kubernetes.io/role" { value.as_str().unwrap_or("") } else { role };
        if !role.is_empty() && !roles.contains(&role) {
            roles.push(role);
        }
    }
    roles.sort_unstable();
    let address = |kind: &str| {
        or_none(
            list(obj, "/status/addresses")
                .iter()
                .find(|a| text(a, "/type") == kind)
                .map_or("", |a| text(a, "/address")),
        )
    };
    let info = |key: &str| match text(obj, &format!("/status/nodeInfo/{key}")) {
        "" => Value::from("<unknown>"),
        v => v.into(),
    };
    vec![
        name(obj),
        status.into(),
        or_none(roles.join(",")),
        age(obj, now),
        text(obj, "/status/nodeInfo/kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}
