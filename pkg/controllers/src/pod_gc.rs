//! Deletes pods that nobody else will: on nodes that are gone, deleted before they got a node, and terminated ones
//! beyond a threshold.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use knarr_client::{Event, Store, WorkQueue};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use parking_lot::Mutex;
use serde_json::json;

use crate::context::{Action, Config, Controller, Ctx, work};
use crate::error::{During, Error};
use crate::pods::{is_finished, node_name};

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "pod-garbage-collector-controller",
    account: "pod-garbage-collector",
    start: |ctx| Box::pin(run(ctx)),
};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Work {
    /// A pod (namespace, name) that was deleted and has no node.
    Unscheduled(String, String),
    /// A node that is not there though pods name it.
    Node(String),
    /// There are too many terminated pods.
    Terminated,
}

/// When a terminated pod was made, and which it is.
type Terminated = BTreeSet<(Option<Timestamp>, String, String)>;

fn is_unscheduled_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && node_name(pod).is_none()
}

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let queue = WorkQueue::<Work>::new(ctx.shutdown.clone());
    let nodes = ctx.store::<Node>();
    let terminated = Arc::new(Mutex::new(Terminated::new()));
    {
        let (queue, grace) = (queue.clone(), ctx.config.missing_node_grace);
        nodes.on_event(move |event| {
            if let Event::Deleted(node) = event {
                queue.add_after(Work::Node(node.name_any()), grace);
            }
        });
    }
    nodes.synced().await;
    {
        let (queue, terminated, nodes) = (queue.clone(), terminated.clone(), nodes.clone());
        let config = ctx.config.clone();
        ctx.store::<Pod>().on_event(move |event| follow(&queue, &terminated, &nodes, &config, event));
    }
    ctx.store::<Pod>().synced().await;
    let run = ctx.clone();
    work(ctx, queue, 2, move |item| {
        let (ctx, nodes, terminated) = (run.clone(), nodes.clone(), terminated.clone());
        async move { reconcile(&ctx, &nodes, &terminated, item).await }
    })
    .await;
    Ok(())
}

fn follow(
    queue: &WorkQueue<Work>,
    terminated: &Mutex<Terminated>,
    nodes: &Store<Node>,
    config: &Config,
    event: &Event<Pod>,
) {
    let id = |pod: &Pod| {
        let made = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
        (made, pod.namespace().unwrap_or_default(), pod.name_any())
    };
    match event {
        Event::Applied { new, old } => {
            if is_unscheduled_terminating(new) {
                queue.add(Work::Unscheduled(new.namespace().unwrap_or_default(), new.name_any()));
            }
            if let Some(node) = node_name(new)
                && old.as_ref().is_none_or(|o| node_name(o).is_none())
                && nodes.get("", node).is_none()
            {
                queue.add_after(Work::Node(node.to_owned()), config.missing_node_grace);
            }
            if is_finished(new) {
                let mut all = terminated.lock();
                all.insert(id(new));
                let threshold = config.terminated_pod_threshold;
                if threshold > 0 && all.len() > threshold {
                    queue.add(Work::Terminated);
                }
            }
        }
        Event::Deleted(old) => {
            terminated.lock().remove(&id(old));
        }
    }
}

async fn reconcile(
    ctx: &Ctx,
    nodes: &Store<Node>,
    terminated: &Mutex<Terminated>,
    item: Work,
) -> Result<Action, Error> {
    match item {
        Work::Unscheduled(namespace, name) => {
            if let Some(pod) =
                ctx.store::<Pod>().get(&namespace, &name).filter(|p| is_unscheduled_terminating(p))
            {
                force_delete(ctx, &pod).await?;
            }
        }
        Work::Node(name) => {
            if nodes.get("", &name).is_some()
                || ctx.api_all::<Node>().get_opt(&name).await.during("get", "Node", "", &name)?.is_some()
            {
                return Ok(Action::Done);
            }
            for pod in ctx.pods.get(&format!("node:{name}")) {
                tell_orphan(ctx, &pod).await?;
                force_delete(ctx, &pod).await?;
            }
        }
        Work::Terminated => {
            let excess: Vec<_> = {
                let all = terminated.lock();
                let count = all.len().saturating_sub(ctx.config.terminated_pod_threshold);
                all.iter().take(count).cloned().collect()
            };
            for (_, namespace, name) in excess {
                if let Some(pod) = ctx.store::<Pod>().get(&namespace, &name).filter(|p| is_finished(p)) {
                    force_delete(ctx, &pod).await?;
                }
            }
        }
    }
    Ok(Action::Done)
}

/// A pod on a node that is gone has failed: its owner must see that.
async fn tell_orphan(ctx: &Ctx, pod: &Pod) -> Result<(), Error> {
    if is_finished(pod) {
        return Ok(());
    }
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let patch = json!({
        "metadata": {"uid": pod.metadata.uid},
        "status": {"phase": "Failed", "conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
            "message": "PodGC: node no longer exists",
            "lastTransitionTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }]},
    });
    let api = ctx.api::<Pod>(&namespace);
    match api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await.during(
        "patch status of",
        "Pod",
        &namespace,
        &name,
    ) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

async fn force_delete(ctx: &Ctx, pod: &Pod) -> Result<(), Error> {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
        ..DeleteParams::default()
    };
    match ctx.api::<Pod>(&namespace).delete(&name, &params).await.during("delete", "Pod", &namespace, &name) {
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
        _ => Ok(()),
    }
}
