//! Priority: the number and the preemption policy of a pod come from its PriorityClass; one class is the default.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use knarr_client::Store;
use knarr_machinery::ApiError;
use serde_json::{Value, json};

use crate::Plugin;
use crate::request::{Operation, Request};
use crate::state::{Api, Context};

/// The plugin.
pub(crate) struct Priority {
    classes: Arc<Store<PriorityClass>>,
    api: Api,
}

/// The two classes every cluster has, for whoever writes the first objects of a cluster.
pub fn system_priority_classes() -> Vec<Value> {
    let class = |name: &str, value: i64, description: &str| {
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "preemptionPolicy": "PreemptLowerPriority", "description": description})
    };
    vec![
        class(
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        class(
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ]
}

/// What a class gives a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Grade {
    class: String,
    value: i64,
    policy: Option<String>,
}

impl Grade {
    fn of(class: &PriorityClass) -> Self {
        Self {
            class: class.metadata.name.clone().unwrap_or_default(),
            value: i64::from(class.value.unwrap_or(0)),
            policy: class.preemption_policy.clone(),
        }
    }
}

/// Writes a grade into a pod.
fn apply(pod: &mut Value, grade: &Grade) -> Result<(), String> {
    let spec = &mut pod["spec"];
    if let Some(given) = spec["priority"].as_i64().filter(|p| *p != grade.value) {
        return Err(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
            grade.value
        ));
    }
    let policy = grade.policy.as_deref().unwrap_or("PreemptLowerPriority");
    if let Some(given) = spec["preemptionPolicy"].as_str().filter(|p| *p != policy) {
        return Err(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        ));
    }
    if !grade.class.is_empty() {
        spec["priorityClassName"] = grade.class.clone().into();
    }
    spec["priority"] = grade.value.into();
    spec["preemptionPolicy"] = policy.into();
    Ok(())
}

impl Priority {
    pub(crate) fn new(context: &Context) -> Self {
        Self { classes: context.informers.of(), api: context.api.clone() }
    }

    /// The default class with the lowest value, or priority 0.
    fn default_grade(&self) -> Grade {
        let all = self.classes.list();
        let defaults = all.iter().filter(|c| c.global_default == Some(true));
        let none = Grade { class: String::new(), value: 0, policy: None };
        defaults.min_by_key(|c| c.value.unwrap_or(0)).map_or(none, |c| Grade::of(c))
    }

    async fn named_grade(&self, request: &Request<'_>, name: &str) -> Result<Grade, ApiError> {
        if let Some(class) = self.classes.get("", name) {
            return Ok(Grade::of(&class));
        }
        // The view may be a moment old.
        let path = format!("/apis/scheduling.k8s.io/v1/priorityclasses/{name}");
        let found = self.api.get(&path).await?;
        let found =
            found.ok_or_else(|| request.forbidden(format!("no PriorityClass with name {name} was found")))?;
        Ok(Grade {
            class: name.to_string(),
            value: found["value"].as_i64().unwrap_or(0),
            policy: found["preemptionPolicy"].as_str().map(str::to_string),
        })
    }
}

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        if !request.is_main("", "pods") {
            return Ok(());
        }
        if request.operation == Operation::Update {
            let old = request.old_object()["spec"].clone();
            if let Some(pod) = request.object.as_mut() {
                for field in ["priority", "preemptionPolicy"] {
                    if pod["spec"][field].is_null() && !old[field].is_null() {
                        pod["spec"][field] = old[field].clone();
                    }
                }
            }
            return Ok(());
        }
        self.classes.synced().await;
        let name = request.new_object()["spec"]["priorityClassName"].as_str().unwrap_or_default().to_string();
        let grade =
            if name.is_empty() { self.default_grade() } else { self.named_grade(request, &name).await? };
        let outcome = request.object.as_mut().map_or(Ok(()), |pod| apply(pod, &grade));
        outcome.map_err(|e| request.forbidden(e))
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), ApiError> {
        let class = request.new_object();
        if !request.is_main("scheduling.k8s.io", "priorityclasses") || class["globalDefault"] != true {
            return Ok(());
        }
        self.classes.synced().await;
        let all = self.classes.list();
        let name = request.shown_name();
        let other =
            all.iter().find(|c| c.global_default == Some(true) && c.metadata.name.as_deref() != Some(name));
        other.map_or(Ok(()), |c| {
            let other = c.metadata.name.as_deref().unwrap_or_default();
            Err(request.forbidden(format!(
                "PriorityClass {other} is already marked as default. Only one default can exist"
            )))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grades() {
        let high = Grade { class: "high".into(), value: 10, policy: Some("Never".into()) };
        let mut pod = json!({"spec": {"priorityClassName": "high"}});
        apply(&mut pod, &high).unwrap();
        assert_eq!(
            pod["spec"],
            json!({"priorityClassName": "high", "priority": 10, "preemptionPolicy": "Never"})
        );
        let mut pod = json!({"spec": {"priority": 5}});
        assert_eq!(
            apply(&mut pod, &high).unwrap_err(),
            "the integer value of priority (5) must not be provided in pod spec; priority admission controller computed 10 from the given PriorityClass name"
        );
        let mut pod = json!({"spec": {}});
        apply(&mut pod, &Grade { class: String::new(), value: 0, policy: None }).unwrap();
        assert_eq!(pod["spec"], json!({"priority": 0, "preemptionPolicy": "PreemptLowerPriority"}));
    }
}
