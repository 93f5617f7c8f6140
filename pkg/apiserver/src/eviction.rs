//! `pods/eviction`: a delete that asks disruption budgets first.

use std::sync::Arc;

use axum::response::Response;
use knarr_kinds::Kind;
use knarr_machinery::labels::Selector;
use knarr_machinery::status::Cause;
use knarr_machinery::{ApiError, GroupResource, GroupVersionKind, GroupVersionResource};
use knarr_registry::delete::DeleteOptions;
use knarr_registry::update::Change;
use knarr_registry::{AllowAll, ListOptions, WriteContext, obj};
use serde_json::{Value, json};

use crate::server::{Call, Inner};
use crate::special::{admit_document, document_kind};
use crate::writing::{Writing, take_body};
use crate::{body, options};

/// More disrupted pods than this are not kept track of.
const MAX_DISRUPTED: usize = 2000;

/// POST on `pods/<name>/eviction`.
///
/// # Errors
/// 429 when a budget forbids it, and what a delete raises.
pub(crate) async fn evict(server: &Arc<Inner>, pods: &Kind, mut call: Call) -> Result<Response, ApiError> {
    let gvk = GroupVersionKind::new("policy", "v1", "Eviction");
    let kind = document_kind(pods, &gvk)?;
    let mut writing = Writing::new(server, pods, &call, "CreateOptions")?;
    let bytes = take_body(&mut call).await?;
    let mut decoded = body::kind_object(&call.parts.headers, &bytes, &kind, writing.validation)?;
    let named = obj::name(&decoded.value);
    if !named.is_empty() && named != call.info.name {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    let context = writing.context(pods, &call, Some("eviction"));
    decoded.value = admit_document(&context, &gvk, decoded.value).await?;
    let mut delete = decoded.value["deleteOptions"].take();
    if !delete.is_object() {
        delete = json!({});
    }
    writing.dry_run |= options::dry_run(&call.query, Some(&delete), "DeleteOptions")?;
    let mut wanted = DeleteOptions::parse(&delete)?;
    let pod = server.registry.get_value(pods, &call.info.namespace, &call.info.name).await?;
    if !ignores_budgets(&pod)
        && let Some(budget) = budget_of(server, &pod).await?
        && spend(server, &writing, &call, &budget, &pod).await?
    {
        // The pod that was counted is the pod that goes.
        wanted.uid.get_or_insert_with(|| obj::uid(&pod).to_string());
    }
    if wanted.uid.as_deref().is_none_or(|uid| uid == obj::uid(&pod)) {
        mark(server, &writing, &call, pods).await?;
    }
    // Admission has judged the eviction; the delete is its effect.
    let context = WriteContext { hooks: &AllowAll, ..writing.context(pods, &call, Some("eviction")) };
    server.registry.delete(&context, &wanted).await?;
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    writing.respond_as(201, &status, &[], &decoded.warnings)
}

/// Notes on the pod why it goes, before it goes.
async fn mark(server: &Inner, writing: &Writing, call: &Call, pods: &Kind) -> Result<(), ApiError> {
    let edit = |current: &Value| Ok(disrupted(current));
    let context = WriteContext {
        kind: pods,
        namespace: &call.info.namespace,
        name: &call.info.name,
        subresource: Some("status"),
        user: &call.user,
        manager: "knarr",
        dry_run: writing.dry_run,
        options: &Value::Null,
        hooks: &AllowAll,
    };
    server.registry.change(&context, Change::Edit(&edit)).await.map(|_| ())
}

/// The pod with the condition that the eviction gives it.
fn disrupted(pod: &Value) -> Value {
    let mut pod = pod.clone();
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "observedGeneration": obj::generation(&pod),
        "lastTransitionTime": knarr_registry::registry::now(),
    });
    let status = obj::map_mut(obj::map_mut(&mut pod).entry("status").or_insert_with(|| json!({})));
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    if let Some(all) = conditions.as_array_mut() {
        all.retain(|c| c["type"] != "DisruptionTarget");
        all.push(condition);
    }
    pod
}

/// Pods that are over, not yet running or on their way out do not count.
fn ignores_budgets(pod: &Value) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or("");
    matches!(phase, "Succeeded" | "Failed" | "Pending") || obj::deletion_timestamp(pod).is_some()
}

fn budgets(server: &Inner) -> Result<Kind, ApiError> {
    let gvr = GroupVersionResource::new("policy", "v1", "poddisruptionbudgets");
    server.registry.kinds().load().find(&gvr).cloned().ok_or_else(ApiError::path_not_found)
}

async fn budget_of(server: &Inner, pod: &Value) -> Result<Option<Value>, ApiError> {
    let kind = budgets(server)?;
    let page = server.registry.list(&kind, obj::namespace(pod), &ListOptions::default()).await?;
    let labels = pod.pointer("/metadata/labels");
    let label = |key: &str| labels.and_then(|l| l.get(key)).and_then(Value::as_str);
    let mut found = Vec::new();
    for entry in &page.entries {
        let budget = entry.value()?;
        let matches = budget
            .pointer("/spec/selector")
            .and_then(|s| Selector::from_label_selector(s).ok())
            .is_some_and(|s| s.matches_fn(label));
        if matches {
            found.push(budget);
        }
    }
    if found.len() > 1 {
        return Err(ApiError::internal(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        ));
    }
    Ok(found.pop())
}

/// Takes one disruption from the budget; `false` when the pod is not healthy and need not be counted.
async fn spend(
    server: &Inner,
    writing: &Writing,
    call: &Call,
    budget: &Value,
    pod: &Value,
) -> Result<bool, ApiError> {
    let ready = pod
        .pointer("/status/conditions")
        .and_then(Value::as_array)
        .is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
    let number =
        |b: &Value, field: &str| b.pointer(&format!("/status/{field}")).and_then(Value::as_i64).unwrap_or(0);
    if !ready {
        let policy = budget.pointer("/spec/unhealthyPodEvictionPolicy").and_then(Value::as_str).unwrap_or("");
        let healthy = number(budget, "currentHealthy") >= number(budget, "desiredHealthy");
        if policy == "AlwaysAllow" || (healthy && number(budget, "desiredHealthy") > 0) {
            return Ok(false);
        }
    }
    let kind = budgets(server)?;
    let name = obj::name(budget).to_string();
    let edit = |current: &Value| take_one(current, obj::name(pod), &name);
    let context = WriteContext {
        kind: &kind,
        namespace: &call.info.namespace,
        name: &name,
        subresource: Some("status"),
        user: &call.user,
        manager: "knarr",
        dry_run: writing.dry_run,
        options: &Value::Null,
        hooks: &AllowAll,
    };
    server.registry.change(&context, Change::Edit(&edit)).await?;
    Ok(true)
}

fn take_one(budget: &Value, pod: &str, name: &str) -> Result<Value, ApiError> {
    let number =
        |field: &str| budget.pointer(&format!("/status/{field}")).and_then(Value::as_i64).unwrap_or(0);
    let resource = GroupResource::new("policy", "poddisruptionbudgets");
    let refuse = |text: String, retry: i32| {
        let cause = Cause { reason: "DisruptionBudget".into(), message: text, field: String::new() };
        ApiError::too_many_requests(
            "Cannot evict pod as it would violate the pod's disruption budget.",
            retry,
        )
        .with_causes(vec![cause])
    };
    if number("observedGeneration") < obj::generation(budget) {
        return Err(refuse(
            format!("The disruption budget {name} is still being processed by the server."),
            10,
        ));
    }
    let allowed = number("disruptionsAllowed");
    if allowed < 0 {
        return Err(ApiError::forbidden(&resource, name, "pdb disruptions allowed is negative"));
    }
    if budget.pointer("/status/disruptedPods").and_then(Value::as_object).map_or(0, serde_json::Map::len)
        > MAX_DISRUPTED
    {
        return Err(ApiError::forbidden(
            &resource,
            name,
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    if allowed == 0 {
        return Err(refuse(
            format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                number("desiredHealthy"),
                number("currentHealthy")
            ),
            0,
        ));
    }
    let mut budget = budget.clone();
    obj::set_at(&mut budget, "status.disruptionsAllowed", (allowed - 1).into());
    // Pod names hold dots: set below the map, not by path.
    let status = obj::map_mut(obj::map_mut(&mut budget).entry("status").or_insert_with(|| json!({})));
    let disrupted = obj::map_mut(status.entry("disruptedPods").or_insert_with(|| json!({})));
    disrupted.insert(pod.to_string(), knarr_registry::registry::now().into());
    Ok(budget)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_evicted_pod_says_so() {
        let pod = json!({"metadata": {"name": "p", "generation": 2},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "DisruptionTarget", "status": "False"}]}});
        let marked = disrupted(&pod);
        let conditions = marked["status"]["conditions"].as_array().unwrap();
        assert_eq!(conditions.len(), 2);
        assert_eq!(
            (&conditions[1]["status"], &conditions[1]["reason"]),
            (&json!("True"), &json!("EvictionByEvictionAPI"))
        );
    }

    #[test]
    fn budgets_are_spent_and_refuse() {
        let budget = json!({"metadata": {"name": "b", "generation": 1},
            "status": {"observedGeneration": 1, "disruptionsAllowed": 1, "desiredHealthy": 1, "currentHealthy": 2}});
        let spent = take_one(&budget, "a.b", "b").unwrap();
        assert_eq!(spent["status"]["disruptionsAllowed"], 0);
        assert!(spent["status"]["disruptedPods"]["a.b"].is_string());
        let error = take_one(&spent, "c", "b").unwrap_err();
        assert_eq!(error.code, 429);
        assert_eq!(
            error.details.unwrap().causes[0].message,
            "The disruption budget b needs 1 healthy pods and has 2 currently"
        );
        let mut stale = budget.clone();
        stale["metadata"]["generation"] = 2.into();
        assert_eq!(take_one(&stale, "c", "b").unwrap_err().details.unwrap().retry_after_seconds, 10);
    }
}
