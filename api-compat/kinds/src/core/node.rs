//! Node.

use knarr_machinery::quantity::Quantity;
use knarr_machinery::{FieldError, Path, Str, names};
use serde_json::{Value, json};

use crate::check::{self, Errors};
use crate::facts::{AGE, Facts, NAME, PROXY};
use crate::kind::{Ctx, Kind};
use crate::podspec::{canonical_quantities, resources, validate_effect};
use crate::ruleset::{PLAIN, RuleSet, keep};
use crate::value::{age, flag, go_form, list, map, name, or_none, text, with};

const AVOIDED: &str = "scheduler.alpha.kubernetes.io/preferAvoidPods";

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

/// Amounts of resources, as the status tells them.
fn amounts(errors: &mut Errors, obj: &Value) {
    for key in ["capacity", "allocatable"] {
        for (name, v) in map(obj, &format!("/status/{key}")).into_iter().flatten() {
            let at = Path::new("status").child(key).child(name);
            match Quantity::from_json(v) {
                Ok(q) => resources::validate_amount(errors, name, &q, &at),
                Err(e) => errors.push(FieldError::invalid(&at, v.clone(), e)),
            }
        }
    }
}

/// Upstream reports taints under metadata.
fn taints(errors: &mut Errors, obj: &Value) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (i, taint) in list(obj, "/spec/taints").iter().enumerate() {
        let at = Path::new("metadata").child("taints").index(i);
        let (key, value, effect) = (text(taint, "/key"), text(taint, "/value"), text(taint, "/effect"));
        check::qualified_name(errors, key, &at.child("key"));
        let messages = names::is_label_value(value);
        if !messages.is_empty() {
            errors.push(FieldError::invalid(&at.child("value"), value, messages.join(";")));
        }
        validate_effect(errors, effect, Some(""), &at.child("effect"));
        if seen.contains(&(key, effect)) {
            let fields = [
                ("Key", "key", "\"\""),
                ("Value", "value", "\"\""),
                ("Effect", "effect", "\"\""),
                ("TimeAdded", "timeAdded", "null"),
            ];
            let mut e = FieldError::duplicate(&at, taint.clone()).shown_as(go_form(taint, &fields));
            e.detail = "taints must be unique by key and effect pair".to_string();
            errors.push(e);
        }
        seen.push((key, effect));
    }
}

fn cidrs(errors: &mut Errors, obj: &Value) {
    let path = Path::new("spec").child("podCIDRs");
    let all: Vec<&str> = list(obj, "/spec/podCIDRs").iter().filter_map(Value::as_str).collect();
    for (i, cidr) in all.iter().enumerate() {
        check::names(errors, names::is_cidr(cidr), (*cidr).into(), &path.index(i));
    }
    let single = text(obj, "/spec/podCIDR");
    if let Some(first) = all.first().filter(|first| **first != single) {
        // A conversion refuses this upstream, with 400.
        let detail = format!("conversion Error: v1.PodCIDR({single}) and v1.CIDRs[0]({first}) do not match");
        errors.push(FieldError::invalid(&path, list(obj, "/spec/podCIDRs").to_vec(), detail));
    }
    if all.len() < 2 {
        return;
    }
    let six = all.iter().filter(|c| c.contains(':')).count();
    if six == 0 || six == all.len() || all.len() > 2 {
        let detail = "may specify no more than one CIDR for each IP family";
        errors.push(FieldError::invalid(&path, list(obj, "/spec/podCIDRs").to_vec(), detail));
    }
    for (i, cidr) in all.iter().enumerate().filter(|(i, cidr)| all[..*i].contains(cidr)) {
        errors.push(FieldError::duplicate(&path.index(i), *cidr));
    }
}

/// The annotation that tells which controllers' pods a node does not want.
fn avoided(errors: &mut Errors, obj: &Value) {
    let Some(told) = knarr_machinery::meta::annotation(obj, AVOIDED) else { return };
    let path = Path::new("metadata").child("annotations");
    let parsed: Value = match serde_json::from_str(told) {
        Ok(v) => v,
        Err(e) => {
            errors.push(FieldError::invalid(&path.child("AvoidPods"), AVOIDED, e.to_string()));
            return;
        }
    };
    for (i, entry) in list(&parsed, "/preferAvoidPods").iter().enumerate() {
        let at = path.child(AVOIDED).index(i).child("PodSignature");
        match entry.pointer("/podSignature/podController") {
            None | Some(Value::Null) => errors.push(FieldError::required(&at, "")),
            Some(owner) if owner["controller"] != true => {
                let value = owner.get("controller").cloned().unwrap_or(Value::Null);
                let at = at.child("PodController").child("Controller");
                errors.push(FieldError::invalid(&at, value, "must point to a controller"));
            }
            Some(_) => {}
        }
    }
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    avoided(&mut errors, obj);
    taints(&mut errors, obj);
    amounts(&mut errors, obj);
    cidrs(&mut errors, obj);
    errors
}

fn validate_update(_ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    amounts(&mut errors, obj);
    let addresses = list(obj, "/status/addresses");
    for (i, address) in addresses.iter().enumerate().filter(|(i, a)| addresses[..*i].contains(a)) {
        let at = Path::new("status").child("addresses").index(i);
        let shown = go_form(address, &[("Type", "type", "\"\""), ("Address", "address", "\"\"")]);
        errors.push(FieldError::duplicate(&at, address.clone()).shown_as(shown));
    }
    avoided(&mut errors, obj);
    let spec = Path::new("spec");
    let before = list(old, "/spec/podCIDRs");
    if !before.is_empty() && list(obj, "/spec/podCIDRs") != before {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(FieldError::forbidden(&spec.child("podCIDRs"), detail));
    }
    let provider = text(old, "/spec/providerID");
    if !provider.is_empty() && text(obj, "/spec/providerID") != provider {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.push(FieldError::forbidden(&spec.child("providerID"), detail));
    }
    config_source(&mut errors, obj.pointer("/spec/configSource"), false, &spec.child("configSource"));
    for key in ["assigned", "active", "lastKnownGood"] {
        let source = obj.pointer(&format!("/status/config/{key}"));
        config_source(&mut errors, source, true, &Path::new("status").child("config").child(key));
    }
    taints(&mut errors, obj);
    if text(obj, "/spec/externalID") != text(old, "/spec/externalID") {
        errors.push(FieldError::forbidden(&spec.child("externalID"), "may not be updated"));
    }
    errors
}

/// The deprecated reference to a kubelet's configuration; in the status it is pinned.
fn config_source(errors: &mut Errors, source: Option<&Value>, pinned: bool, path: &Path) {
    let Some(source) = source.filter(|s| !s.is_null()) else { return };
    let Some(map) = source.get("configMap").filter(|m| !m.is_null()) else {
        let detail = "exactly one reference subfield must be non-nil";
        errors.push(FieldError::invalid(path, source.clone(), detail));
        return;
    };
    let at = path.child("configMap");
    for key in ["uid", "resourceVersion"] {
        match (text(map, &format!("/{key}")).is_empty(), pinned) {
            (true, true) => {
                errors.push(FieldError::required(&at.child(key), format!("{key} must be set in status")));
            }
            (false, false) => {
                errors.push(FieldError::forbidden(&at.child(key), format!("{key} must not be set in spec")));
            }
            _ => {}
        }
    }
    for key in ["namespace", "name", "kubeletConfigKey"] {
        let value = text(map, &format!("/{key}"));
        let messages = match key {
            _ if value.is_empty() => {
                errors.push(FieldError::required(&at.child(key), format!("{key} must be set")));
                continue;
            }
            "namespace" => names::is_dns1123_label(value),
            "name" => names::is_dns1123_subdomain(value),
            _ => names::is_config_map_key(value),
        };
        check::names(errors, messages, value.into(), &at.child(key));
    }
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
