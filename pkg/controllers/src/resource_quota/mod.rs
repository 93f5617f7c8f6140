//! ResourceQuota: keeps `status.used` true to what is there. Admission refuses; this counts.

mod usage;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use knarr_client::{Event, Store, WorkQueue};
use knarr_machinery::quantity::{Format, Quantity};
use kube::ResourceExt;
use kube::api::{Api, DynamicObject, ListParams, PartialObjectMeta, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use parking_lot::Mutex;

use crate::context::{Action, Cached, Controller, Ctx, work};
use crate::discovery::{ServedResource, discover};
use crate::error::{During, Error};
use usage::Amounts;

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "resourcequota-controller",
    account: "resourcequota-controller",
    start: |ctx| Box::pin(run(ctx)),
};

type Key = (String, String);

/// Kinds that are counted under their plain name as well.
const PLAIN: &[&str] = &["configmaps", "secrets", "replicationcontrollers", "resourcequotas"];

/// The resource (`deployments.apps`) that a name in `hard` counts, if it is counted by number alone.
fn counted(name: &str) -> Option<&str> {
    match name.strip_prefix("count/") {
        Some("pods" | "services" | "persistentvolumeclaims") => None,
        Some(resource) => Some(resource),
        None => PLAIN.iter().copied().find(|p| *p == name),
    }
}

/// `status.used` from what was found: every name in `hard` that something can be told about.
fn decide(hard: &BTreeMap<String, Text>, found: &Amounts) -> BTreeMap<String, Text> {
    let zero = |text: &Text| {
        Quantity::parse(&text.0).map(|q| Quantity::from_value(0, q.format())).unwrap_or_default()
    };
    hard.iter()
        .map(|(name, limit)| {
            let amount = found.get(name).cloned().unwrap_or_else(|| zero(limit));
            (name.clone(), Text(amount.to_string()))
        })
        .collect()
}

struct Quotas {
    ctx: Arc<Ctx>,
    queue: WorkQueue<Key>,
    quotas: Arc<Store<ResourceQuota>>,
    /// Resources that are watched because a quota counts them.
    watched: Mutex<HashSet<String>>,
}

/// When additions are looked at again.
const LATER: Duration = Duration::from_secs(5);

/// Whether the status is of today's spec, with a number for each limit.
fn is_counted(quota: &ResourceQuota) -> bool {
    let hard = quota.spec.as_ref().and_then(|s| s.hard.as_ref());
    let status = quota.status.as_ref();
    let used = status.and_then(|s| s.used.as_ref());
    hard == status.and_then(|s| s.hard.as_ref())
        && hard.is_none_or(|hard| hard.keys().all(|k| used.is_some_and(|u| u.contains_key(k))))
}

fn namespace_of<K: Cached>(object: &K) -> &str {
    object.meta().namespace.as_deref().unwrap_or_default()
}

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let queue = WorkQueue::<Key>::new(ctx.shutdown.clone());
    let quotas = ctx.store::<ResourceQuota>();
    {
        let queue = queue.clone();
        quotas.on_event(move |event| {
            // Admission writes what it has just counted; only what it cannot know is ours.
            if let Event::Applied { new, .. } = event
                && !is_counted(new)
            {
                queue.add((new.namespace().unwrap_or_default(), new.name_any()));
            }
        });
    }
    let this = Arc::new(Quotas {
        ctx: ctx.clone(),
        queue: queue.clone(),
        quotas: quotas.clone(),
        watched: Mutex::new(HashSet::new()),
    });
    this.follow::<Pod>(|new, old| usage::of_pod(new) != usage::of_pod(old));
    this.follow::<Service>(|new, old| usage::of_service(new) != usage::of_service(old));
    this.follow::<PersistentVolumeClaim>(|new, old| usage::of_claim(new) != usage::of_claim(old));
    quotas.synced().await;
    ctx.store::<Pod>().synced().await;
    ctx.store::<Service>().synced().await;
    ctx.store::<PersistentVolumeClaim>().synced().await;
    work(ctx, queue, 3, move |key| {
        let this = this.clone();
        async move { this.reconcile(key).await }
    })
    .await;
    Ok(())
}

impl Quotas {
    fn follow<K: Cached>(self: &Arc<Self>, differs: impl Fn(&K, &K) -> bool + Send + Sync + 'static) {
        let this = self.clone();
        self.ctx.store::<K>().on_event(move |event| match event {
            Event::Applied { new, old: None } => this.recount_later(namespace_of(new.as_ref())),
            Event::Applied { new, old: Some(old) } if differs(new, old) => {
                this.recount(namespace_of(new.as_ref()))
            }
            Event::Applied { .. } => {}
            Event::Deleted(old) => this.recount(namespace_of(old.as_ref())),
        });
    }

    /// Every quota of a namespace is counted anew.
    fn recount(&self, namespace: &str) {
        for quota in self.quotas.list_ns(namespace) {
            self.queue.add((namespace.to_owned(), quota.name_any()));
        }
    }

    /// Admission counts what it lets in before it is there to be counted here; only what it missed (a quota that came
    /// at the same moment) is found by a later look.
    fn recount_later(&self, namespace: &str) {
        for quota in self.quotas.list_ns(namespace) {
            self.queue.add_after((namespace.to_owned(), quota.name_any()), LATER);
        }
    }

    async fn reconcile(self: &Arc<Self>, (namespace, name): Key) -> Result<Action, Error> {
        let Some(quota) = self.quotas.get(&namespace, &name) else { return Ok(Action::Done) };
        if quota.metadata.deletion_timestamp.is_some() {
            return Ok(Action::Done);
        }
        let hard = quota.spec.as_ref().and_then(|s| s.hard.clone()).unwrap_or_default();
        let mut found = Amounts::new();
        let mut note = |amounts: Amounts| amounts.iter().for_each(|(k, v)| usage::add(&mut found, k, v));
        self.ctx.store::<Pod>().for_each_of(&namespace, |pod| {
            if usage::covers(&quota, pod) {
                note(usage::of_pod(pod));
            }
        });
        if !usage::is_scoped(&quota) {
            for service in self.ctx.store::<Service>().list_ns(&namespace) {
                note(usage::of_service(&service));
            }
            for claim in self.ctx.store::<PersistentVolumeClaim>().list_ns(&namespace) {
                note(usage::of_claim(&claim));
            }
            let names: Vec<&String> = hard.keys().filter(|k| counted(k).is_some()).collect();
            if !names.is_empty() {
                self.count_others(&namespace, &names, &mut found).await?;
            }
        }
        let used = decide(&hard, &found);
        let status = ResourceQuotaStatus { hard: Some(hard), used: Some(used) };
        if quota.status.as_ref() == Some(&status) {
            return Ok(Action::Done);
        }
        let mut next = ResourceQuota::clone(&quota);
        next.status = Some(status);
        let api = self.ctx.api::<ResourceQuota>(&namespace);
        let result = api.replace_status(&name, &PostParams::default(), &next).await;
        match result.during("update status of", "ResourceQuota", &namespace, &name) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(Action::Done),
        }
    }

    /// Counts objects of other kinds by asking the server, and watches these kinds from now on.
    async fn count_others(
        self: &Arc<Self>,
        namespace: &str,
        names: &[&String],
        found: &mut Amounts,
    ) -> Result<(), Error> {
        let served = discover(&self.ctx.client).await?;
        for name in names {
            let Some(wanted) = counted(name) else { continue };
            let Some(resource) = served.resources.iter().find(|r| r.namespaced && r.name() == wanted) else {
                continue;
            };
            self.watch(resource);
            let api = self.ctx.api_dynamic(&resource.api, Some(namespace));
            let list = api.list_metadata(&ListParams::default()).await;
            let count = list.during("list", wanted, namespace, "")?.items.len();
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            found.insert((*name).clone(), Quantity::from_value(count, Format::DecimalSi));
        }
        Ok(())
    }

    fn watch(self: &Arc<Self>, resource: &ServedResource) {
        if !resource.can(&["watch"]) || !self.watched.lock().insert(resource.name()) {
            return;
        }
        let api: Api<PartialObjectMeta<DynamicObject>> =
            Api::all_with(self.ctx.client.clone(), &resource.api);
        let (this, name) = (self.clone(), resource.name());
        tokio::spawn(async move {
            let stream = watcher(api, watcher::Config::default().streaming_lists()).default_backoff();
            let mut stream = std::pin::pin!(stream);
            let mut known: HashSet<String> = HashSet::new();
            loop {
                let next = tokio::select! {
                    () = this.ctx.shutdown.cancelled() => return,
                    next = stream.next() => next,
                };
                let meta = match next {
                    None => return,
                    Some(Ok(watcher::Event::InitApply(o) | watcher::Event::Apply(o))) => {
                        if known.insert(o.metadata.uid.clone().unwrap_or_default()) {
                            this.recount_later(o.metadata.namespace.as_deref().unwrap_or_default());
                        }
                        continue;
                    }
                    Some(Ok(watcher::Event::Delete(o))) => {
                        known.remove(o.metadata.uid.as_deref().unwrap_or_default());
                        o.metadata
                    }
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => {
                        tracing::debug!(controller = this.ctx.name, resource = name, %error, "watch failed");
                        continue;
                    }
                };
                this.recount(meta.namespace.as_deref().unwrap_or_default());
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_admission_wrote_is_left_alone() {
        let quota = |status: serde_json::Value| {
            serde_json::from_value(serde_json::json!({"spec": {"hard": {"pods": "2"}}, "status": status}))
                .unwrap()
        };
        let json = |text: &str| serde_json::from_str(text).unwrap();
        assert!(!is_counted(&quota(json("{}"))));
        assert!(!is_counted(&quota(json(r#"{"hard": {"pods": "2"}}"#))));
        assert!(!is_counted(&quota(json(r#"{"hard": {"pods": "3"}, "used": {"pods": "1"}}"#))));
        assert!(is_counted(&quota(json(r#"{"hard": {"pods": "2"}, "used": {"pods": "1"}}"#))));
    }

    #[test]
    fn used_follows_hard() {
        let hard: BTreeMap<String, Text> =
            [("pods", "10"), ("requests.memory", "1Gi"), ("count/jobs.batch", "3")]
                .map(|(k, v)| (k.to_owned(), Text(v.to_owned())))
                .into();
        let found = Amounts::from([("pods".to_owned(), Quantity::from_value(2, Format::DecimalSi))]);
        let used: Vec<_> = decide(&hard, &found).into_iter().map(|(k, v)| format!("{k}={}", v.0)).collect();
        assert_eq!(used, ["count/jobs.batch=0", "pods=2", "requests.memory=0"]);
        assert_eq!(counted("count/deployments.apps"), Some("deployments.apps"));
        assert_eq!(counted("configmaps"), Some("configmaps"));
        assert_eq!(counted("count/pods"), None);
        assert_eq!(counted("requests.cpu"), None);
    }
}
