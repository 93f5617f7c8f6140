//! Fills cluster roles that are made of others: `admin`, `edit`, `view` and any with an aggregation rule.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use knarr_client::{Event, Store, WorkQueue};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::context::{Action, Controller, Ctx, work};
use crate::error::{During, Error};
use crate::selector;

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "clusterrole-aggregation-controller",
    account: "clusterrole-aggregation-controller",
    start: |ctx| Box::pin(run(ctx)),
};

/// The rules that a role should have; `None` when it has them or is not made of others.
fn decide(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_ref()?;
    let mut rules: Vec<PolicyRule> = Vec::new();
    for wanted in selectors {
        // The store lists by name, so that the order of rules is stable.
        let sources = all.iter().filter(|r| {
            r.metadata.name != role.metadata.name && selector::matches(wanted, r.metadata.labels.as_ref())
        });
        for rule in sources.flat_map(|r| r.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    (role.rules.as_deref().unwrap_or_default() != rules).then_some(rules)
}

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let queue = WorkQueue::<String>::new(ctx.shutdown.clone());
    let roles = ctx.store::<ClusterRole>();
    {
        // Any role may be a part of any other.
        let (queue, all) = (queue.clone(), roles.clone());
        roles.on_event(move |event| {
            if let Event::Applied { new, old: Some(old) } = event
                && new.rules == old.rules
                && new.metadata.labels == old.metadata.labels
                && new.aggregation_rule == old.aggregation_rule
            {
                return;
            }
            for role in all.list() {
                if role.aggregation_rule.is_some() {
                    queue.add(role.name_any());
                }
            }
        });
    }
    roles.synced().await;
    let run = ctx.clone();
    work(ctx, queue, 2, move |name| {
        let (ctx, roles) = (run.clone(), roles.clone());
        async move { reconcile(&ctx, &roles, &name).await }
    })
    .await;
    Ok(())
}

async fn reconcile(ctx: &Ctx, roles: &Store<ClusterRole>, name: &str) -> Result<Action, Error> {
    let Some(rules) = roles.get("", name).and_then(|role| decide(&role, &roles.list())) else {
        return Ok(Action::Done);
    };
    let patch = json!({"rules": rules});
    let api = ctx.api_all::<ClusterRole>();
    match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.during(
        "patch",
        "ClusterRole",
        "",
        name,
    ) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(Action::Done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_gathered() {
        let role = |value: serde_json::Value| Arc::new(serde_json::from_value::<ClusterRole>(value).unwrap());
        let rule = |resource: &str| json!({"verbs": ["get"], "apiGroups": [""], "resources": [resource]});
        let whole = role(json!({"metadata": {"name": "view"}, "rules": [],
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"view": "true"}}]}}));
        let a = role(
            json!({"metadata": {"name": "a", "labels": {"view": "true"}}, "rules": [rule("pods"), rule("services")]}),
        );
        let b = role(json!({"metadata": {"name": "b", "labels": {"view": "true"}}, "rules": [rule("pods")]}));
        let c = role(json!({"metadata": {"name": "c"}, "rules": [rule("secrets")]}));
        let all = [a, b, c, whole.clone()];
        let rules = decide(&whole, &all).unwrap();
        assert_eq!(rules.len(), 2);
        let mut full = ClusterRole::clone(&whole);
        full.rules = Some(rules);
        assert!(decide(&full, &all).is_none());
    }
}
