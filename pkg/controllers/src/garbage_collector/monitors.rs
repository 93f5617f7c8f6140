//! One metadata-only watch for each deletable resource; the set of resources follows discovery.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::{Api, DynamicObject, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Collector;
use super::graph::Names;
use crate::discovery::{ServedResource, discover};

/// Time for the server to serve a new kind after its definition appeared, and to gather several at once.
const SETTLE: Duration = Duration::from_millis(500);
/// First wait after a failed discovery, doubled up to a minute.
const RETRY: Duration = Duration::from_secs(1);
/// Discoveries that follow one changed definition while they show nothing new: the server may be slow to serve it.
const LOOKS: u32 = 4;

/// Resources that nothing owns for long: events would only cost memory.
fn is_ignored(resource: &ServedResource) -> bool {
    resource.api.plural == "events" && matches!(resource.api.group.as_str(), "" | "events.k8s.io")
}

/// Whether changes of this kind change what is served.
fn defines_kinds(resource: &ServedResource) -> bool {
    matches!(
        (resource.api.group.as_str(), resource.api.plural.as_str()),
        ("apiextensions.k8s.io", "customresourcedefinitions") | ("apiregistration.k8s.io", "apiservices")
    )
}

/// Keeps the monitors in step with discovery until shutdown.
pub async fn run(collector: Arc<Collector>, shutdown: CancellationToken) {
    let (changed, mut changes) = mpsc::channel::<()>(1);
    let mut monitors: HashMap<ServedResource, CancellationToken> = HashMap::new();
    let mut retry = RETRY;
    let mut looks = 0_u32;
    loop {
        let outcome = discover(&collector.ctx.client).await;
        let incomplete = match outcome {
            Ok(served) => {
                let incomplete = !served.failed.is_empty();
                let same = served.resources == collector.served.read().resources;
                looks = if same { looks.saturating_sub(1) } else { 0 };
                let wanted: HashSet<_> = served
                    .resources
                    .iter()
                    .filter(|r| r.can(&["delete", "list", "watch"]) && !is_ignored(r))
                    .cloned()
                    .collect();
                *collector.served.write() = Arc::new(served);
                follow(&collector, &mut monitors, wanted, &changed, &shutdown, incomplete);
                incomplete || looks > 0
            }
            Err(error) => {
                if !shutdown.is_cancelled() {
                    tracing::warn!(controller = collector.ctx.name, %error, "will retry");
                }
                true
            }
        };
        let again =
            async { if incomplete { tokio::time::sleep(retry).await } else { std::future::pending().await } };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = again => retry = (retry * 2).min(Duration::from_secs(60)),
            _ = changes.recv() => {
                retry = RETRY;
                looks = LOOKS;
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(SETTLE) => {}
                }
                while changes.try_recv().is_ok() {}
            }
        }
    }
}

fn follow(
    collector: &Arc<Collector>,
    monitors: &mut HashMap<ServedResource, CancellationToken>,
    wanted: HashSet<ServedResource>,
    changed: &mpsc::Sender<()>,
    shutdown: &CancellationToken,
    incomplete: bool,
) {
    let gone: Vec<_> = monitors.keys().filter(|r| !wanted.contains(*r)).cloned().collect();
    for resource in gone {
        // A group that could not be discovered just now is not a group that is gone.
        if incomplete {
            continue;
        }
        if let Some(stop) = monitors.remove(&resource) {
            stop.cancel();
        }
        let mut graph = collector.graph.lock();
        for uid in graph.of_kind(&resource.api.api_version, &resource.api.kind) {
            graph.forget(&uid);
        }
    }
    for resource in wanted {
        if monitors.contains_key(&resource) {
            continue;
        }
        let stop = shutdown.child_token();
        monitors.insert(resource.clone(), stop.clone());
        tokio::spawn(monitor(collector.clone(), resource, changed.clone(), stop));
    }
}

async fn monitor(
    collector: Arc<Collector>,
    resource: ServedResource,
    changed: mpsc::Sender<()>,
    stop: CancellationToken,
) {
    let api: Api<PartialObjectMeta<DynamicObject>> =
        Api::all_with(collector.ctx.client.clone(), &resource.api);
    let names = Names::of(&resource);
    let defines = defines_kinds(&resource);
    let config = watcher::Config::default().streaming_lists();
    let stream = watcher(api, config).default_backoff();
    let mut stream = std::pin::pin!(stream);
    let mut listed: HashSet<String> = HashSet::new();
    loop {
        let next = tokio::select! {
            () = stop.cancelled() => return,
            next = stream.next() => next,
        };
        match next {
            None => return,
            Some(Ok(watcher::Event::Init)) => listed.clear(),
            Some(Ok(watcher::Event::InitApply(object))) => {
                listed.extend(object.metadata.uid.clone());
                collector.observe(&names, &object.metadata);
            }
            Some(Ok(watcher::Event::InitDone)) => {
                let known = collector.graph.lock().of_kind(&names.api_version, &names.kind);
                for uid in known.iter().filter(|uid| !listed.contains(&***uid)) {
                    collector.remove(uid);
                }
                listed = HashSet::new();
                if defines {
                    // A definition may have come between the discovery and this list.
                    let _full = changed.try_send(());
                }
            }
            Some(Ok(watcher::Event::Apply(object))) => {
                collector.observe(&names, &object.metadata);
                if defines {
                    // One waiting notice is enough.
                    let _full = changed.try_send(());
                }
            }
            Some(Ok(watcher::Event::Delete(object))) => {
                if let Some(uid) = object.metadata.uid.as_deref() {
                    collector.remove(uid);
                }
                if defines {
                    let _full = changed.try_send(());
                }
            }
            Some(Err(error)) => {
                tracing::debug!(controller = collector.ctx.name, resource = resource.name(), %error, "watch failed");
            }
        }
    }
}
