//! Aggregated cluster roles: the rules of a role with an aggregationRule are those of the roles it selects.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::Method;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use knarr_client::{Informers, Store};
use knarr_machinery::labels::Selector;
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::api::Api;

/// The rules that an aggregated role should have; None when the role is not aggregated or a selector is bad.
pub fn wanted_rules(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref().unwrap_or_default();
    let mut out: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        let document = serde_json::to_value(selector).ok()?;
        let selector = Selector::from_label_selector(&document).ok()?;
        let none = BTreeMap::new();
        let mut found: Vec<&Arc<ClusterRole>> = all
            .iter()
            .filter(|r| r.metadata.name != role.metadata.name)
            .filter(|r| selector.matches(r.metadata.labels.as_ref().unwrap_or(&none)))
            .collect();
        found.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        for rule in found.iter().flat_map(|r| r.rules.iter().flatten()) {
            if !out.contains(rule) {
                out.push(rule.clone());
            }
        }
    }
    Some(out)
}

async fn sync(api: &Api, store: &Store<ClusterRole>) -> bool {
    let all = store.list();
    let mut complete = true;
    for role in &all {
        let Some(rules) = wanted_rules(role, &all) else { continue };
        if role.rules.as_deref().unwrap_or_default() == rules {
            continue;
        }
        let name = role.metadata.name.as_deref().unwrap_or_default();
        let path = format!("/apis/rbac.authorization.k8s.io/v1/clusterroles/{name}");
        let mut next = match serde_json::to_value(role.as_ref()) {
            Ok(v) => v,
            Err(error) => {
                tracing::error!(%error, role = name, "a cluster role cannot be written as JSON");
                continue;
            }
        };
        next["apiVersion"] = "rbac.authorization.k8s.io/v1".into();
        next["kind"] = "ClusterRole".into();
        next["rules"] = json!(rules);
        if let Err(error) = api.send(Method::PUT, &path, &next).await {
            tracing::debug!(%error, role = name, "aggregating the rules of a cluster role failed, trying again");
            complete = false;
        }
    }
    complete
}

/// Keeps aggregated roles up to date until shutdown. The client needs `update` and `escalate` on cluster roles.
pub async fn run(informers: Arc<Informers>, client: kube::Client, shutdown: CancellationToken) {
    let store: Arc<Store<ClusterRole>> = informers.of();
    let changed = Arc::new(Notify::new());
    let notify = changed.clone();
    store.on_event(move |_| notify.notify_one());
    let api = Api::new(client);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = changed.notified() => {}
        }
        store.synced().await;
        if !sync(&api, &store).await {
            // Most likely a conflict with an event that is on its way; without one, the write is tried again soon.
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(std::time::Duration::from_secs(1)) => changed.notify_one(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_selected_roles() {
        let role = |name: &str, label: &str, verb: &str| -> Arc<ClusterRole> {
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": name, "labels": {label: "true"}},
                    "rules": [{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]}]}))
                .unwrap(),
            )
        };
        let sum: ClusterRole = serde_json::from_value(json!({"metadata": {"name": "sum"},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"x": "true"}}]}}))
        .unwrap();
        let all =
            [role("b", "x", "list"), role("a", "x", "get"), role("c", "y", "delete"), role("d", "x", "get")];
        let rules = wanted_rules(&sum, &all).unwrap();
        let verbs: Vec<&str> = rules.iter().map(|r| r.verbs[0].as_str()).collect();
        assert_eq!(verbs, ["get", "list"]);
        assert_eq!(wanted_rules(&all[0], &all), None);
    }
}
