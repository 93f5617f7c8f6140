//! ReplicationController.

use knarr_machinery::{FieldError, Path};
use serde_json::{Value, json};

use crate::facts::Facts;
use crate::kind::{Ctx, Kind};
use crate::podspec::{self, default_template};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{container_cells, fill, is_empty, labels_text, map, sub, with};
use crate::workload;

static RULES: RuleSet = RuleSet {
    default,
    status: Some(workload::no_replicas),
    validate,
    validate_update: Some(|ctx, obj, _| {
        if ctx.subresource == Some("status") {
            crate::apps::replicaset::validate_status(obj)
        } else {
            validate(ctx, obj)
        }
    }),
    warnings: crate::podspec::warnings::for_template,
    row,
    fields: workload::replica_fields,
    scale: workload::SCALE,
    orphan: true,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new("", "v1", "ReplicationController", "replicationcontrollers")
        .namespaced()
        .short(&["rc"])
        .categories(&["all"])
        .scale()
        .status()
        .generation()
        .columns(workload::REPLICA_COLUMNS)
        .selectable(&["status.replicas"])
        .build(&RULES)
}

/// Selector and labels come from the template when they are left out.
fn default(obj: &mut Value) {
    let labels = obj.pointer("/spec/template/metadata/labels").filter(|l| !is_empty(Some(l))).cloned();
    if let Some(labels) = labels {
        if is_empty(obj.pointer("/spec/selector")) {
            sub(obj, "spec")["selector"] = labels.clone();
        }
        if is_empty(obj.pointer("/metadata/labels")) {
            sub(obj, "metadata")["labels"] = labels;
        }
    }
    with(obj, "/spec", |spec| {
        fill(spec, "replicas", 1);
        with(spec, "/template", default_template);
    });
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    workload::counts(&mut errors, obj, &["minReadySeconds", "replicas"]);
    let selector = map(obj, "/spec/selector");
    if selector.is_none_or(serde_json::Map::is_empty) {
        errors.push(FieldError::required(&spec.child("selector"), ""));
    }
    let path = spec.child("template");
    let Some(template) = obj.pointer("/spec/template").filter(|t| !t.is_null()) else {
        errors.push(FieldError::required(&path, ""));
        return errors;
    };
    let labels = map(template, "/metadata/labels");
    let fits = selector.into_iter().flatten().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v));
    if !fits {
        let value = template.pointer("/metadata/labels").cloned().unwrap_or_else(|| json!({}));
        errors.push(FieldError::invalid(
            &path.child("metadata").child("labels"),
            value,
            "`selector` does not match template `labels`",
        ));
    }
    errors.extend(podspec::validate_template(template, &path));
    workload::always_restarts(&mut errors, template, &path, "replicationcontroller");
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let (names, images) = container_cells(obj.pointer("/spec/template/spec"));
    let selector = labels_text(map(obj, "/spec/selector")).into();
    workload::replica_cells(obj, now, [names, images, selector])
}
