//! ResourceQuota: what a namespace may have; what is admitted is counted at once.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use async_trait::async_trait;
use http::Method;
use k8s_openapi::api::core::v1::ResourceQuota;
use knarr_client::Store;
use knarr_machinery::{ApiError, meta};
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use crate::Plugin;
use crate::limits::{ResourceList, resource_list};
use crate::quota_usage::{in_scope, unspecified, usage};
use crate::request::{Operation, Request};
use crate::state::{Api, Context};

/// How often a write of a quota's status is tried again after a conflict.
const RETRIES: usize = 10;
/// Namespaces share this many locks.
const LOCKS: usize = 64;

/// The plugin.
pub(crate) struct ResourceQuotaPlugin {
    quotas: Arc<Store<ResourceQuota>>,
    api: Api,
    /// One write of a namespace at a time counts, so that conflicts come from outside only.
    locks: Vec<Mutex<()>>,
}

/// Quantities as messages list them: `cpu=1,pods=2`.
fn pretty(list: &ResourceList) -> String {
    list.iter().map(|(k, q)| format!("{k}={q}")).collect::<Vec<_>>().join(",")
}

fn only(list: &ResourceList, names: &BTreeSet<String>) -> ResourceList {
    list.iter().filter(|(k, _)| names.contains(*k)).map(|(k, q)| (k.clone(), q.clone())).collect()
}

/// What the write adds: for an update the difference to what was there.
fn added(request: &Request<'_>) -> ResourceList {
    let (group, resource) = (&*request.resource.group, &*request.resource.resource);
    let mut delta = usage(group, resource, request.new_object());
    if request.operation == Operation::Update {
        for (k, before) in usage(group, resource, request.old_object()) {
            let now = delta.get(&k).cloned().unwrap_or_default();
            delta.insert(k, now.sub(&before));
        }
    }
    delta.retain(|_, q| !q.is_zero());
    delta
}

/// Checks a write against one quota: the new `status.used`, or None when the quota does not care.
fn charge(
    quota: &Value,
    delta: &ResourceList,
    request: &Request<'_>,
) -> Result<Option<ResourceList>, String> {
    let name = meta::name(quota);
    let (group, resource) = (&*request.resource.group, &*request.resource.resource);
    let hard = resource_list(&quota["status"]["hard"]);
    let bounded: BTreeSet<String> = hard.keys().cloned().collect();
    if !in_scope(quota, group, resource, request.new_object()) {
        return Ok(None);
    }
    if request.is("", "pods")
        && let Some(e) = unspecified(request.new_object(), &bounded)
    {
        return Err(format!("failed quota: {name}: {e}"));
    }
    let requested = only(delta, &bounded);
    if requested.is_empty() {
        return Ok(None);
    }
    let used = resource_list(&quota["status"]["used"]);
    let unknown: Vec<&str> =
        requested.keys().filter(|k| !used.contains_key(*k)).map(String::as_str).collect();
    if !unknown.is_empty() {
        return Err(format!("status unknown for quota: {name}, resources: {}", unknown.join(",")));
    }
    let mut total = used.clone();
    crate::limits::add(&mut total, &requested);
    let exceeded: BTreeSet<String> = requested
        .iter()
        .filter(|(k, q)| q.sign() > 0 && total.get(*k).zip(hard.get(*k)).is_some_and(|(t, h)| t > h))
        .map(|(k, _)| k.clone())
        .collect();
    if exceeded.is_empty() {
        return Ok(Some(total));
    }
    Err(format!(
        "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
        pretty(&only(&requested, &exceeded)),
        pretty(&only(&used, &exceeded)),
        pretty(&only(&hard, &exceeded))
    ))
}

fn concerns(request: &Request<'_>) -> bool {
    // A running pod asks for more or less.
    let resized = request.subresource == Some("resize") && request.is("", "pods");
    if request.namespace.is_empty() || (request.subresource.is_some() && !resized) {
        return false;
    }
    if resized {
        return request.operation == Operation::Update;
    }
    let updated = ["services", "persistentvolumeclaims"].iter().any(|r| request.is("", r));
    request.operation == Operation::Create || (request.operation == Operation::Update && updated)
}

impl ResourceQuotaPlugin {
    pub(crate) fn new(context: &Context) -> Self {
        let locks = (0..LOCKS).map(|_| Mutex::new(())).collect();
        Self { quotas: context.informers.of(), api: context.api.clone(), locks }
    }

    fn lock(&self, namespace: &str) -> &Mutex<()> {
        let mut hasher = DefaultHasher::new();
        namespace.hash(&mut hasher);
        let at = usize::try_from(hasher.finish() % LOCKS as u64).unwrap_or(0);
        &self.locks[at]
    }

    /// Checks and counts once; false when a quota was changed meanwhile.
    async fn attempt(&self, request: &Request<'_>, names: &[String]) -> Result<bool, ApiError> {
        let delta = added(request);
        if delta.is_empty() {
            return Ok(true);
        }
        let base = format!("/api/v1/namespaces/{}/resourcequotas", request.namespace);
        let mut writes = Vec::new();
        for name in names {
            // The view may lag behind what was just counted, so the API is asked.
            let Some(mut quota) = self.api.get(&format!("{base}/{name}")).await? else { continue };
            let charged = charge(&quota, &delta, request).map_err(|e| request.forbidden(e))?;
            if let Some(used) = charged {
                let used: Map<String, Value> =
                    used.into_iter().map(|(k, q)| (k, q.to_string().into())).collect();
                quota["status"]["used"] = used.into();
                writes.push((format!("{base}/{name}/status"), quota));
            }
        }
        if request.dry_run {
            return Ok(true);
        }
        for (path, quota) in writes {
            match self.api.send(Method::PUT, &path, &quota).await {
                Ok(_) => {}
                Err(e) if e.is_conflict() => return Ok(false),
                // A quota that has gone bounds nothing.
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }
}

#[async_trait]
impl Plugin for ResourceQuotaPlugin {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), ApiError> {
        if !concerns(request) {
            return Ok(());
        }
        self.quotas.synced().await;
        let quotas = self.quotas.list_ns(request.namespace);
        let names: Vec<String> = quotas.iter().filter_map(|q| q.metadata.name.clone()).collect();
        if names.is_empty() {
            return Ok(());
        }
        let _held = self.lock(request.namespace).lock().await;
        for _ in 0..RETRIES {
            if self.attempt(request, &names).await? {
                return Ok(());
            }
        }
        Err(ApiError::internal(format!(
            "resource quota of namespace {} kept changing while it was counted, try again",
            request.namespace
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::testing::Case;
    use serde_json::json;

    fn pod(cpu: &str) -> Value {
        json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    fn quota(hard: Value, used: Value) -> Value {
        json!({"metadata": {"name": "q"}, "status": {"hard": hard, "used": used}})
    }

    #[test]
    fn charges() {
        let mut case = Case::new(Operation::Create, "", "Pod", "pods");
        case.object = Some(pod("500m"));
        let request = case.request();
        let delta = added(&request);
        let q =
            quota(json!({"pods": "2", "requests.cpu": "1"}), json!({"pods": "1", "requests.cpu": "300m"}));
        let used = charge(&q, &delta, &request).unwrap().unwrap();
        assert_eq!(pretty(&used), "pods=2,requests.cpu=800m");
        let q =
            quota(json!({"pods": "1", "requests.cpu": "1"}), json!({"pods": "1", "requests.cpu": "600m"}));
        assert_eq!(
            charge(&q, &delta, &request).unwrap_err(),
            "exceeded quota: q, requested: pods=1,requests.cpu=500m, used: pods=1,requests.cpu=600m, limited: pods=1,requests.cpu=1"
        );
        let q = quota(json!({"limits.cpu": "1"}), json!({"limits.cpu": "0"}));
        assert_eq!(
            charge(&q, &delta, &request).unwrap_err(),
            "failed quota: q: must specify limits.cpu for: c"
        );
        let q = quota(json!({"pods": "1"}), Value::Null);
        assert_eq!(charge(&q, &delta, &request).unwrap_err(), "status unknown for quota: q, resources: pods");
        assert_eq!(charge(&quota(json!({"services": "0"}), Value::Null), &delta, &request).unwrap(), None);
    }

    #[test]
    fn updates_count_the_difference() {
        let claim = |s: &str| json!({"metadata": {"name": "c", "namespace": "n"}, "spec": {"resources": {"requests": {"storage": s}}}});
        let mut case = Case::new(Operation::Update, "", "PersistentVolumeClaim", "persistentvolumeclaims");
        case.object = Some(claim("3Gi"));
        case.old = Some(claim("1Gi"));
        assert_eq!(pretty(&added(&case.request())), "requests.storage=2Gi");
        case.object = Some(claim("1Gi"));
        assert!(added(&case.request()).is_empty());
        assert!(concerns(&case.request()));
        let mut pods = Case::new(Operation::Update, "", "Pod", "pods");
        pods.object = Some(pod("1"));
        pods.old = Some(pod("300m"));
        assert!(!concerns(&pods.request()));
        pods.subresource = Some("resize");
        assert!(concerns(&pods.request()));
        assert!(pretty(&added(&pods.request())).contains("requests.cpu=700m"));
        pods.subresource = Some("status");
        assert!(!concerns(&pods.request()));
    }
}
