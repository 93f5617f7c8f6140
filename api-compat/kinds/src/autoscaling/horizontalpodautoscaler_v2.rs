//! `autoscaling/v2` HorizontalPodAutoscaler, the stored version.

use knarr_machinery::{FieldError, Path};
use serde_json::{Value, json};

use crate::check::{self, Errors};
use crate::facts::{AGE, Col, Facts, NAME};
use crate::kind::{Ctx, Kind};
use crate::ruleset::{PLAIN, RuleSet};
use crate::value::{age, fill, int, is_empty, list, name, number, text, with};

static RULES: RuleSet = RuleSet {
    default,
    status: Some(|| json!({"desiredReplicas": 0, "currentMetrics": null})),
    validate,
    row,
    ..PLAIN
};

/// Columns of both versions.
pub(crate) const COLUMNS: &[Col] = &[
    NAME,
    ("Reference", "string", 0, "Object that is scaled."),
    ("Targets", "string", 0, "Observed and wanted metrics."),
    ("MinPods", "string", 0, "Least number of pods."),
    ("MaxPods", "string", 0, "Largest number of pods."),
    ("Replicas", "string", 0, "Number of pods now."),
    AGE,
];

pub(crate) fn kind() -> Kind {
    Facts::new("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
        .namespaced()
        .short(&["hpa"])
        .categories(&["all"])
        .status()
        .columns(COLUMNS)
        .build(&RULES)
}

fn default(obj: &mut Value) {
    with(obj, "/spec", |spec| {
        fill(spec, "minReplicas", 1);
        if is_empty(spec.get("metrics")) {
            spec["metrics"] = json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]);
        }
        if let Some(behavior) = spec.get_mut("behavior").filter(|b| b.is_object()) {
            default_direction(
                behavior,
                "scaleUp",
                json!({
                    "stabilizationWindowSeconds": 0, "selectPolicy": "Max",
                    "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}],
                }),
            );
            default_direction(
                behavior,
                "scaleDown",
                json!({
                    "selectPolicy": "Max", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
                }),
            );
        }
    });
}

fn default_direction(behavior: &mut Value, key: &str, defaults: Value) {
    fill(behavior, key, json!({}));
    for (field, value) in defaults.as_object().into_iter().flatten() {
        fill(&mut behavior[key], field, value.clone());
    }
}

/// Errors that both versions share.
pub(crate) fn validate_common(errors: &mut Errors, obj: &Value) {
    let spec = Path::new("spec");
    let (min, max) = (int(obj, "/spec/minReplicas"), int(obj, "/spec/maxReplicas").unwrap_or(0));
    if let Some(m) = min.filter(|m| *m < 1) {
        errors.push(FieldError::invalid(&spec.child("minReplicas"), m, "must be greater than or equal to 1"));
    }
    if max < 1 {
        errors.push(FieldError::invalid(&spec.child("maxReplicas"), max, "must be greater than 0"));
    }
    if min.is_some_and(|m| max < m) {
        errors.push(FieldError::invalid(
            &spec.child("maxReplicas"),
            max,
            "must be greater than or equal to `minReplicas`",
        ));
    }
    for key in ["kind", "name"] {
        if text(obj, &format!("/spec/scaleTargetRef/{key}")).is_empty() {
            errors.push(FieldError::required(&spec.child("scaleTargetRef").child(key), ""));
        }
    }
}

fn validate(_ctx: &Ctx<'_>, obj: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    validate_common(&mut errors, obj);
    let types = ["ContainerResource", "External", "Object", "Pods", "Resource"];
    for (i, metric) in list(obj, "/spec/metrics").iter().enumerate() {
        let path = Path::new("spec").child("metrics").index(i);
        let kind = text(metric, "/type");
        check::one_of(
            &mut errors,
            kind,
            &path.child("type"),
            &types,
            Some("must specify a metric source type"),
        );
        let mut source = kind.to_string();
        if let Some(c) = source.get_mut(..1) {
            c.make_ascii_lowercase();
        }
        if types.contains(&kind) && is_empty(metric.get(&source)) {
            errors.push(FieldError::required(
                &path.child(&source),
                "must populate information for the given metric source",
            ));
        }
    }
    errors
}

fn quantity(v: Option<&Value>) -> String {
    match v {
        Some(Value::String(s)) => s.clone(),
        Some(v) if !v.is_null() => v.to_string(),
        _ => "<unknown>".to_string(),
    }
}

fn targets(obj: &Value) -> String {
    let specs = list(obj, "/spec/metrics");
    if specs.is_empty() {
        return "<none>".to_string();
    }
    let current = list(obj, "/status/currentMetrics");
    let mut all: Vec<String> = Vec::new();
    for (i, spec) in specs.iter().enumerate() {
        let (key, label) = match text(spec, "/type") {
            "Resource" => ("resource", text(spec, "/resource/name")),
            "ContainerResource" => ("containerResource", text(spec, "/containerResource/name")),
            "Pods" => ("pods", ""),
            "Object" => ("object", ""),
            "External" => ("external", ""),
            _ => ("", "<unknown type>"),
        };
        let target = spec.pointer(&format!("/{key}/target"));
        let now = current.get(i).and_then(|c| c.pointer(&format!("/{key}/current")));
        let field = |name: &str| (target.and_then(|t| t.get(name)), now.and_then(|n| n.get(name)));
        let average = field("averageValue");
        let utilization = field("averageUtilization");
        let shown = if average.0.is_some() {
            let suffix = if matches!(key, "object" | "external") { " (avg)" } else { "" };
            format!("{}/{}{suffix}", quantity(average.1), quantity(average.0))
        } else if utilization.0.is_some() {
            let now =
                utilization.1.filter(|v| !v.is_null()).map_or("<unknown>".to_string(), |v| format!("{v}%"));
            format!("{now}/{}%", quantity(utilization.0))
        } else {
            let value = field("value");
            format!("{}/{}", quantity(value.1), quantity(value.0))
        };
        all.push(if label.is_empty() { shown } else { format!("{label}: {shown}") });
    }
    match all.len() {
        n if n > 2 => format!("{} + {} more...", all[..2].join(", "), n - 2),
        _ => all.join(", "),
    }
}

/// Row of the stored form.
pub(crate) fn row(obj: &Value, now: &str) -> Vec<Value> {
    let min = int(obj, "/spec/minReplicas").map_or("<unset>".to_string(), |m| m.to_string());
    vec![
        name(obj),
        format!("{}/{}", text(obj, "/spec/scaleTargetRef/kind"), text(obj, "/spec/scaleTargetRef/name"))
            .into(),
        targets(obj).into(),
        min.into(),
        number(obj, "/spec/maxReplicas"),
        number(obj, "/status/currentReplicas"),
        age(obj, now),
    ]
}
