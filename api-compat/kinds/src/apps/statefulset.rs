//! StatefulSet.

use knarr_machinery::{FieldError, Path};
use serde_json::{Value, json};

use crate::check;
use crate::facts::{AGE, CONTAINERS, Facts, IMAGES, NAME};
use crate::kind::{Ctx, Kind};
use crate::podspec::{default_template, default_volume_claim};
use crate::ruleset::{PLAIN, RuleSet, keep};
use crate::value::{age, each, fill, fill_text, int, list, name, sub, text, with};
use crate::workload;

static RULES: RuleSet = RuleSet {
    default,
    status: Some(|| json!({"replicas": 0, "availableReplicas": 0})),
    validate,
    validate_update: Some(validate_update),
    warnings: crate::podspec::warnings::for_template,
    row,
    scale: workload::SCALE,
    ..PLAIN
};

pub(crate) fn kind() -> Kind {
    Facts::new("apps", "v1", "StatefulSet", "statefulsets")
        .namespaced()
        .short(&["sts"])
        .categories(&["all"])
        .scale()
        .status()
        .generation()
        .columns(&[NAME, ("Ready", "string", 0, "Ready pods of wanted pods."), AGE, CONTAINERS, IMAGES])
        .build(&RULES)
}

fn default(obj: &mut Value) {
    with(obj, "/spec", |spec| {
        fill_text(spec, "podManagementPolicy", "OrderedReady");
        let strategy = sub(spec, "updateStrategy");
        fill_text(strategy, "type", "RollingUpdate");
        if text(strategy, "/type") == "RollingUpdate" {
            let rolling = sub(strategy, "rollingUpdate");
            fill(rolling, "partition", 0);
            fill(rolling, "maxUnavailable", 1);
        }
        let retention = sub(spec, "persistentVolumeClaimRetentionPolicy");
        fill_text(retention, "whenDeleted", "Retain");
        fill_text(retention, "whenScaled", "Retain");
        fill(spec, "replicas", 1);
        fill(spec, "revisionHistoryLimit", 10);
        with(spec, "/template", default_template);
        each(spec, "/volumeClaimTemplates", |c| {
            fill_text(c, "apiVersion", "v1");
            fill_text(c, "kind", "PersistentVolumeClaim");
            with(c, "/spec", default_volume_claim);
            fill(c, "status", json!({"phase": "Pending"}));
        });
    });
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = Path::new("spec");
    let policies = ["OrderedReady", "Parallel"];
    check::one_of(
        &mut errors,
        text(obj, "/spec/podManagementPolicy"),
        &spec.child("podManagementPolicy"),
        &policies,
        Some(""),
    );
    let at = spec.child("updateStrategy");
    let rolling = obj.pointer("/spec/updateStrategy/rollingUpdate").filter(|r| !r.is_null());
    match text(obj, "/spec/updateStrategy/type") {
        "" => errors.push(FieldError::required(&at, "")),
        "OnDelete" => {
            if rolling.is_some() {
                errors.push(FieldError::invalid(
                    &at.child("rollingUpdate"),
                    obj["spec"]["updateStrategy"]["rollingUpdate"].clone(),
                    "only allowed for updateStrategy 'RollingUpdate'",
                ));
            }
        }
        "RollingUpdate" => {
            let path = at.child("rollingUpdate");
            check::non_negative(
                &mut errors,
                rolling.and_then(|r| int(r, "/partition")),
                &path.child("partition"),
            );
            workload::count_or_percent(
                &mut errors,
                rolling.and_then(|r| r.get("maxUnavailable")),
                &path.child("maxUnavailable"),
            );
            let most = rolling.and_then(|r| r.get("maxUnavailable"));
            workload::at_most_all(&mut errors, most, &path.child("maxUnavailable"));
            if most.is_some() && workload::is_zero(most) {
                let shown = most.cloned().unwrap_or_default();
                errors.push(FieldError::invalid(&path.child("maxUnavailable"), shown, "cannot be 0"));
            }
        }
        other => errors.push(FieldError::invalid(&at, other, "must be 'RollingUpdate' or 'OnDelete'")),
    }
    for key in ["whenDeleted", "whenScaled"] {
        let at = spec.child("persistentVolumeClaimRetentionPolicy").child(key);
        let value = text(obj, &format!("/spec/persistentVolumeClaimRetentionPolicy/{key}")).to_string();
        check::one_of(&mut errors, &value, &at, &["Delete", "Retain"], None);
    }
    workload::counts(&mut errors, obj, &["replicas", "minReadySeconds", "revisionHistoryLimit"]);
    check::non_negative(
        &mut errors,
        int(obj, "/spec/ordinals/start"),
        &spec.child("ordinals").child("start"),
    );
    let template_of = with_claims(obj);
    workload::selector_and_template(&mut errors, &template_of, None, "statefulset");
    errors
}

/// Claims stand in for volumes of their name in the template.
fn with_claims(obj: &Value) -> Value {
    let mut all = obj.clone();
    let claims: Vec<Value> = list(obj, "/spec/volumeClaimTemplates")
        .iter()
        .map(|c| {
            let n = text(c, "/metadata/name");
            json!({"name": n, "persistentVolumeClaim": {"claimName": n}})
        })
        .collect();
    if !claims.is_empty()
        && let Some(spec) = all.pointer_mut("/spec/template/spec").filter(|s| s.is_object())
    {
        let named = |v: &Value| claims.iter().any(|c| c["name"] == v["name"]);
        let mut volumes: Vec<Value> = list(spec, "/volumes").iter().filter(|v| !named(v)).cloned().collect();
        volumes.extend(claims.iter().cloned());
        spec["volumes"] = volumes.into();
    }
    all
}

fn validate_update(ctx: &Ctx<'_>, obj: &Value, old: &Value) -> Vec<FieldError> {
    if ctx.subresource == Some("status") {
        let mut errors = super::replicaset::validate_status(obj);
        workload::collision_count(&mut errors, obj, old);
        return errors;
    }
    let mut errors = validate(ctx, obj);
    let mut munged = obj.get("spec").cloned().unwrap_or_default();
    let before = old.get("spec").cloned().unwrap_or_default();
    for key in [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "minReadySeconds",
        "persistentVolumeClaimRetentionPolicy",
        "revisionHistoryLimit",
    ] {
        keep(&mut munged, &before, key);
    }
    if !check::same(Some(&munged), Some(&before)) {
        errors.push(FieldError::forbidden(
            &Path::new("spec"),
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        ));
    }
    errors
}

fn row(obj: &Value, now: &str) -> Vec<Value> {
    let [names, images, _] = workload::template_cells(obj);
    let ready = int(obj, "/status/readyReplicas").unwrap_or(0);
    let wanted = int(obj, "/spec/replicas").unwrap_or(0);
    vec![name(obj), format!("{ready}/{wanted}").into(), age(obj, now), names, images]
}
