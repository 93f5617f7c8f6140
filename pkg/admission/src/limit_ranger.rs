//! LimitRanger: defaults and bounds of container, pod and claim resources from the LimitRanges of the namespace.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::LimitRange;
use knarr_client::Store;
use knarr_machinery::quantity::Quantity;
use knarr_machinery::{ApiError, meta};
use serde_json::Value;

use crate::Plugin;
use crate::limits::{ResourceList, add, containers, raise, resource_list};
use crate::request::{Operation, Request, aggregate};
use crate::state::Context;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// The plugin.
pub(crate) struct LimitRanger {
    ranges: Arc<Store<LimitRange>>,
}

impl LimitRanger {
    pub(crate) fn new(context: &Context) -> Self {
        Self { ranges: context.informers.of() }
    }

    /// The `spec.limits` of all LimitRanges of a namespace.
    async fn limits(&self, namespace: &str) -> Result<Vec<Vec<Value>>, ApiError> {
        self.ranges.synced().await;
        let ranges = self.ranges.list_ns(namespace);
        let limits = ranges.iter().map(|r| {
            let limits = r.spec.as_ref().map(|s| &s.limits);
            serde_json::to_value(limits).map(|v| v.as_array().cloned().unwrap_or_default())
        });
        limits.collect::<Result<_, _>>().map_err(ApiError::internal)
    }
}

fn concerns(request: &Request<'_>) -> bool {
    // Containers of a pod do not change, so only its creation counts, and what they are given.
    let pod = request.is_main("", "pods") && request.operation == Operation::Create;
    pod || resizes(request) || request.is_main("", "persistentvolumeclaims")
}

fn resizes(request: &Request<'_>) -> bool {
    request.subresource == Some("resize") && request.is("", "pods") && request.operation == Operation::Update
}

/// Fills in default requests and limits of a pod's containers and says so in an annotation.
fn set_defaults(pod: &mut Value, limits: &[Value]) {
    let (mut requests, mut maxima) = (BTreeMap::new(), BTreeMap::new());
    for l in limits.iter().filter(|l| l["type"] == "Container") {
        requests.extend(l["defaultRequest"].as_object().cloned().unwrap_or_default());
        maxima.extend(l["default"].as_object().cloned().unwrap_or_default());
    }
    let mut notes = Vec::new();
    for (field, what) in [("containers", "container"), ("initContainers", "init container")] {
        for c in pod["spec"].get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            let name = c["name"].as_str().unwrap_or_default().to_string();
            for (kind, defaults, noun) in [("requests", &requests, "request"), ("limits", &maxima, "limit")] {
                let set = fill(c, kind, defaults);
                if !set.is_empty() {
                    notes.push(format!("{} {noun} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        meta::set_annotation(pod, ANNOTATION, &format!("LimitRanger plugin set: {}", notes.join("; ")));
    }
}

fn fill(container: &mut Value, kind: &str, defaults: &BTreeMap<String, Value>) -> Vec<String> {
    let mut set = Vec::new();
    if defaults.is_empty() {
        return set;
    }
    let Some(container) = container.as_object_mut() else { return set };
    let list = meta::object_at(meta::object_at(container, "resources"), kind);
    for (k, v) in defaults {
        if !list.contains_key(k) {
            list.insert(k.clone(), v.clone());
            set.push(k.clone());
        }
    }
    set
}

fn check_min(
    what: &str,
    name: &str,
    min: &Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    match (request, limit) {
        (None, _) => Some(format!("minimum {name} usage per {what} is {min}.  No request is specified")),
        (Some(r), _) if r < min => {
            Some(format!("minimum {name} usage per {what} is {min}, but request is {r}"))
        }
        (_, Some(l)) if l < min => {
            Some(format!("minimum {name} usage per {what} is {min}, but limit is {l}"))
        }
        _ => None,
    }
}

fn check_max(
    what: &str,
    name: &str,
    max: &Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    match (request, limit) {
        (_, None) => Some(format!("maximum {name} usage per {what} is {max}.  No limit is specified")),
        (_, Some(l)) if l > max => {
            Some(format!("maximum {name} usage per {what} is {max}, but limit is {l}"))
        }
        (Some(r), _) if r > max => {
            Some(format!("maximum {name} usage per {what} is {max}, but request is {r}"))
        }
        _ => None,
    }
}

fn check_ratio(
    what: &str,
    name: &str,
    max: &Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
) -> Option<String> {
    let head = format!("{name} max limit to request ratio per {what} is {max}, but");
    let Some(r) = request.filter(|q| !q.is_zero()) else {
        return Some(format!("{head} no request is specified or request is 0"));
    };
    let Some(l) = limit.filter(|q| !q.is_zero()) else {
        return Some(format!("{head} no limit is specified or limit is 0"));
    };
    let ratio = l.as_f64() / r.as_f64();
    (ratio > max.as_f64()).then(|| format!("{head} provided ratio is {ratio:.6}"))
}

/// Errors of one pair of lists against one limit.
fn check(limit: &Value, requests: &ResourceList, limits: &ResourceList) -> Vec<String> {
    let what = limit["type"].as_str().unwrap_or_default();
    type Check = fn(&str, &str, &Quantity, Option<&Quantity>, Option<&Quantity>) -> Option<String>;
    let checks: [(&str, Check); 3] =
        [("min", check_min), ("max", check_max), ("maxLimitRequestRatio", check_ratio)];
    let mut errors = Vec::new();
    for (field, check) in checks {
        for (name, bound) in resource_list(&limit[field]) {
            errors.extend(check(what, &name, &bound, requests.get(&name), limits.get(&name)));
        }
    }
    errors
}

/// Sums that name a resource only when every container does.
fn common_sum(spec: &Value, kind: &str) -> ResourceList {
    let lists: Vec<ResourceList> =
        containers(spec, "containers").iter().map(|c| resource_list(&c["resources"][kind])).collect();
    let mut sum = ResourceList::new();
    for l in &lists {
        add(&mut sum, l);
    }
    sum.retain(|k, _| lists.iter().all(|l| l.contains_key(k)));
    for c in containers(spec, "initContainers") {
        raise(&mut sum, &resource_list(&c["resources"][kind]));
    }
    sum
}

fn pod_errors(pod: &Value, limits: &[Value]) -> Vec<String> {
    let spec = &pod["spec"];
    let mut errors = Vec::new();
    for limit in limits {
        match limit["type"].as_str().unwrap_or_default() {
            "Container" => {
                for c in containers(spec, "containers").iter().chain(containers(spec, "initContainers")) {
                    let list = |k: &str| resource_list(&c["resources"][k]);
                    errors.extend(check(limit, &list("requests"), &list("limits")));
                }
            }
            "Pod" => errors.extend(check(limit, &common_sum(spec, "requests"), &common_sum(spec, "limits"))),
            _ => {}
        }
    }
    errors
}

fn claim_errors(claim: &Value, limits: &[Value]) -> Vec<String> {
    let requests = resource_list(&claim["spec"]["resources"]["requests"]);
    let mut errors = Vec::new();
    for limit in limits.iter().filter(|l| l["type"] == "PersistentVolumeClaim") {
        // A claim's request is its limit too.
        errors.extend(check(limit, &requests, &requests));
    }
    errors.iter().map(|e| e.replace("but limit is", "but request is")).collect()
}

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        // What was there at creation has its defaults.
        if !concerns(request) || !request.is("", "pods") || resizes(request) {
            return Ok(());
        }
        for limits in self.limits(request.namespace).await? {
            if let Some(pod) = request.object.as_mut() {
                set_defaults(pod, &limits);
            }
        }
        Ok(())
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), ApiError> {
        if !concerns(request) || meta::deletion_timestamp(request.old_object()).is_some() {
            return Ok(());
        }
        for limits in self.limits(request.namespace).await? {
            let object = request.new_object();
            let errors = if request.is("", "pods") {
                pod_errors(object, &limits)
            } else {
                claim_errors(object, &limits)
            };
            if !errors.is_empty() {
                return Err(request.forbidden(aggregate(&errors)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults() {
        let limits = [
            json!({"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}}),
        ];
        let mut pod = json!({"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "2"}}}]}});
        set_defaults(&mut pod, &limits);
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "100m"}})
        );
        assert_eq!(
            meta::annotation(&pod, ANNOTATION),
            Some("LimitRanger plugin set: cpu request for container c; memory limit for container c")
        );
    }

    #[test]
    fn resizes_are_bounded_too() {
        let mut case = crate::request::testing::Case::new(Operation::Update, "", "Pod", "pods");
        assert!(!concerns(&case.request()));
        case.subresource = Some("resize");
        assert!(concerns(&case.request()));
        case.subresource = Some("status");
        assert!(!concerns(&case.request()));
    }

    #[test]
    fn bounds() {
        let pod = |req: Value, lim: Value| json!({"spec": {"containers": [{"name": "c", "resources": {"requests": req, "limits": lim}}]}});
        let limits = |l: Value| vec![l];
        for (p, l, want) in [
            (
                pod(json!({"cpu": "50m"}), json!({})),
                limits(json!({"type": "Container", "min": {"cpu": "100m"}})),
                vec!["minimum cpu usage per Container is 100m, but request is 50m"],
            ),
            (
                pod(json!({}), json!({"cpu": "2"})),
                limits(json!({"type": "Container", "min": {"cpu": "100m"}, "max": {"cpu": "1"}})),
                vec![
                    "minimum cpu usage per Container is 100m.  No request is specified",
                    "maximum cpu usage per Container is 1, but limit is 2",
                ],
            ),
            (
                pod(json!({"cpu": "1"}), json!({"cpu": "3"})),
                limits(json!({"type": "Pod", "maxLimitRequestRatio": {"cpu": "2"}})),
                vec!["cpu max limit to request ratio per Pod is 2, but provided ratio is 3.000000"],
            ),
            (
                pod(json!({"cpu": "1"}), json!({"cpu": "1"})),
                limits(json!({"type": "Pod", "max": {"cpu": "1"}})),
                vec![],
            ),
        ] {
            assert_eq!(pod_errors(&p, &l), want);
        }
        let claim = json!({"spec": {"resources": {"requests": {"storage": "10Gi"}}}});
        assert_eq!(
            claim_errors(&claim, &[json!({"type": "PersistentVolumeClaim", "max": {"storage": "5Gi"}})]),
            ["maximum storage usage per PersistentVolumeClaim is 5Gi, but request is 10Gi"]
        );
    }
}
