//! `autoscaling/v1` HorizontalPodAutoscaler: only a CPU target; the rest of the stored form travels in annotations.

use knarr_machinery::{ApiError, FieldError};
use serde_json::{Map, Value, json};

use super::horizontalpodautoscaler_v2 as v2;
use crate::facts::Facts;
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{fill, list, sub, text, with};

static RULES: RuleSet = RuleSet {
    default: |obj| with(obj, "/spec", |s| fill(s, "minReplicas", 1)),
    status: Some(|| json!({"currentReplicas": 0, "desiredReplicas": 0})),
    validate,
    row: |obj, now| to_storage(obj.clone()).map(|o| v2::row(&o, now)).unwrap_or_default(),
    from_storage,
    to_storage,
    ..PLAIN
};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

pub(crate) fn kind() -> Kind {
    Facts::new("autoscaling", "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
        .namespaced()
        .short(&["hpa"])
        .categories(&["all"])
        .status()
        .stored_as("autoscaling", "horizontalpodautoscalers", "v2")
        .columns(v2::COLUMNS)
        .build(&RULES)
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    v2::validate_common(&mut errors, obj);
    errors
}

fn is_cpu(metric: &Value) -> bool {
    text(metric, "/type") == "Resource" && text(metric, "/resource/name") == "cpu"
}

fn from_storage(mut obj: Value) -> Result<Value, ApiError> {
    obj["apiVersion"] = "autoscaling/v1".into();
    let mut notes: Map<String, Value> = Map::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(v) = value.filter(|v| !crate::value::is_empty(Some(v))) {
            notes.insert(key.to_string(), v.to_string().into());
        }
    };
    if let Some(spec) = obj.get_mut("spec").and_then(Value::as_object_mut) {
        let metrics = spec.remove("metrics").unwrap_or_default();
        let mut others = Vec::new();
        for m in metrics.as_array().into_iter().flatten() {
            match m.pointer("/resource/target/averageUtilization").filter(|v| is_cpu(m) && !v.is_null()) {
                Some(n) => {
                    spec.insert("targetCPUUtilizationPercentage".to_string(), n.clone());
                }
                None => others.push(m.clone()),
            }
        }
        put(METRICS, Some(others.into()));
        put(BEHAVIOR, spec.remove("behavior"));
    }
    if let Some(status) = obj.get_mut("status").and_then(Value::as_object_mut) {
        fill_number(status, "currentReplicas");
        let current = status.remove("currentMetrics").unwrap_or_default();
        let mut others = Vec::new();
        for m in current.as_array().into_iter().flatten() {
            match m.pointer("/resource/current/averageUtilization").filter(|v| is_cpu(m) && !v.is_null()) {
                Some(n) => {
                    status.insert("currentCPUUtilizationPercentage".to_string(), n.clone());
                }
                None => others.push(m.clone()),
            }
        }
        put(CURRENT, Some(others.into()));
        put(CONDITIONS, status.remove("conditions"));
    }
    if !notes.is_empty() {
        let annotations = sub(sub(&mut obj, "metadata"), "annotations");
        if let Some(map) = annotations.as_object_mut() {
            map.extend(notes);
        }
    }
    Ok(obj)
}

fn fill_number(map: &mut Map<String, Value>, key: &str) {
    map.entry(key).or_insert_with(|| 0.into());
}

fn to_storage(mut obj: Value) -> Result<Value, ApiError> {
    obj["apiVersion"] = "autoscaling/v2".into();
    let mut take = |key: &str| -> Option<Value> {
        let notes = obj.pointer_mut("/metadata/annotations")?.as_object_mut()?;
        let given = notes.remove(key)?;
        serde_json::from_str(given.as_str()?).ok()
    };
    let (metrics, behavior) = (take(METRICS), take(BEHAVIOR));
    let (current, conditions) = (take(CURRENT), take(CONDITIONS));
    if obj.pointer("/metadata/annotations").is_some_and(|a| a.as_object().is_some_and(Map::is_empty)) {
        with(&mut obj, "/metadata", |m| crate::value::drop_key(m, "annotations"));
    }
    let cpu = |value: Value, key: &str| json!({"type": "Resource", "resource": {"name": "cpu", key: value}});
    if let Some(spec) = obj.get_mut("spec").and_then(Value::as_object_mut) {
        let mut all = metrics.as_ref().map(|m| list(m, "").to_vec()).unwrap_or_default();
        if let Some(n) = spec.remove("targetCPUUtilizationPercentage").filter(|n| !n.is_null()) {
            all.insert(0, cpu(json!({"type": "Utilization", "averageUtilization": n}), "target"));
        }
        if !all.is_empty() {
            spec.insert("metrics".to_string(), all.into());
        }
        if let Some(b) = behavior {
            spec.insert("behavior".to_string(), b);
        }
    }
    if let Some(status) = obj.get_mut("status").and_then(Value::as_object_mut) {
        let mut all = current.as_ref().map(|m| list(m, "").to_vec()).unwrap_or_default();
        if let Some(n) = status.remove("currentCPUUtilizationPercentage").filter(|n| !n.is_null()) {
            all.insert(0, cpu(json!({"averageUtilization": n, "averageValue": "0"}), "current"));
        }
        status.insert("currentMetrics".to_string(), if all.is_empty() { Value::Null } else { all.into() });
        if let Some(c) = conditions {
            status.insert("conditions".to_string(), c);
        }
    }
    Ok(obj)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_keeps_all() {
        let stored = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "minReplicas": 1, "scaleTargetRef": {"kind": "Deployment", "name": "d"},
                "behavior": {"scaleUp": {"selectPolicy": "Max"}},
                "metrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
                    {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}}]},
            "status": {"currentReplicas": 1, "desiredReplicas": 1, "currentMetrics": null},
        });
        let v1 = from_storage(stored.clone()).unwrap();
        assert_eq!(v1["spec"]["targetCPUUtilizationPercentage"], 50);
        assert_eq!(to_storage(v1).unwrap(), stored);
    }
}
