//! The running scheduler: listens, decides pod by pod, binds, and tells why a pod has to wait.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::{Binding, Namespace, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use knarr_client::{Event, Informers, Recorder, Store};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Status;
use kube::{Client, Resource};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, Snapshot};
use crate::cycle;
use crate::plugins::Change;
use crate::pod::PodInfo;
use crate::preemption::{self, Eviction, Outcome};
use crate::queue::Queue;

/// The name that pods ask for in `spec.schedulerName`.
pub const NAME: &str = "default-scheduler";
/// Requests to the API server that run at once.
const PARALLEL: usize = 64;

/// The scheduler cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A task of it died.
    #[error("the scheduler's task died: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Runs the scheduler until `shutdown`, with watches of its own.
///
/// # Errors
/// It cannot go on.
pub async fn run(client: Client, shutdown: CancellationToken) -> Result<(), Error> {
    let informers = Informers::new(client.clone(), shutdown.clone());
    run_with(informers, client, shutdown).await
}

/// Runs the scheduler on informers that other components of the process use as well.
///
/// # Errors
/// It cannot go on.
pub async fn run_with(
    informers: Arc<Informers>,
    client: Client,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let scheduler = Arc::new(Scheduler {
        state: Mutex::new(State::default()),
        wake: Notify::new(),
        recorder: Recorder::new(client.clone(), NAME, ""),
        client,
        namespaces: informers.of::<Namespace>(),
        requests: Arc::new(Semaphore::new(PARALLEL)),
    });
    let (pods, nodes) = (informers.of::<Pod>(), informers.of::<Node>());
    scheduler.listen(&pods, &nodes);
    pods.synced().await;
    nodes.synced().await;
    scheduler.namespaces.synced().await;
    scheduler.serve(shutdown).await;
    Ok(())
}

#[derive(Default)]
struct State {
    queue: Queue,
    cache: Cache,
    /// Where the last look around the nodes ended.
    start: usize,
    /// Pods for which room was made, and where.
    nominated: HashMap<String, (String, Arc<PodInfo>)>,
}

struct Scheduler {
    state: Mutex<State>,
    wake: Notify,
    client: Client,
    recorder: Recorder,
    namespaces: Arc<Store<Namespace>>,
    requests: Arc<Semaphore>,
}

/// What to do after a decision.
enum Decision {
    Bind { pod: Arc<PodInfo>, node: String },
    Wait { pod: Arc<PodInfo>, message: String, eviction: Option<Eviction> },
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).filter(|n| !n.is_empty())
}

fn is_finished(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

fn is_ours(pod: &Pod) -> bool {
    let name = pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref()).unwrap_or_default();
    name.is_empty() || name == NAME
}

/// Whether a change of a placed pod means anything to others.
fn matters(new: &Pod, old: &Pod) -> bool {
    new.spec != old.spec
        || new.metadata.labels != old.metadata.labels
        || new.metadata.deletion_timestamp.is_some() != old.metadata.deletion_timestamp.is_some()
        || is_finished(new) != is_finished(old)
}

/// Whether a change of a node can help a pod.
fn node_matters(new: &Node, old: &Node) -> bool {
    let seen = |n: &Node| {
        let spec = n.spec.as_ref();
        (
            n.metadata.labels.clone(),
            spec.and_then(|s| s.taints.clone()),
            spec.and_then(|s| s.unschedulable),
            n.status.as_ref().and_then(|s| s.allocatable.clone()),
        )
    };
    seen(new) != seen(old)
}

impl Scheduler {
    fn listen(self: &Arc<Self>, pods: &Arc<Store<Pod>>, nodes: &Arc<Store<Node>>) {
        let target = self.clone();
        nodes.on_event(move |event| target.follow_node(event));
        let target = self.clone();
        pods.on_event(move |event| target.follow_pod(event));
    }

    fn follow_node(&self, event: &Event<Node>) {
        let mut state = self.state.lock();
        match event {
            Event::Applied { new, old } => {
                state.cache.set_node(new.clone());
                if old.as_ref().is_none_or(|old| node_matters(new, old)) {
                    state.queue.follow(&Change::Node { new, old: old.as_deref() }, Instant::now());
                    self.wake.notify_one();
                }
            }
            Event::Deleted(old) => state.cache.remove_node(old.metadata.name.as_deref().unwrap_or_default()),
        }
    }

    fn follow_pod(&self, event: &Event<Pod>) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let State { queue, cache, nominated, .. } = &mut *state;
        match event {
            Event::Applied { new, old } => match node_of(new) {
                Some(node) => {
                    let before = old.as_ref().filter(|o| node_of(o).is_some());
                    if before.is_some_and(|old| !matters(new, old)) {
                        return;
                    }
                    let info = Arc::new(PodInfo::new(new));
                    queue.remove(info.uid());
                    nominated.remove(info.uid());
                    if is_finished(new) {
                        cache.remove(info.uid());
                        queue.follow(&Change::PodGone(&info), now);
                    } else {
                        cache.place(info.clone(), node);
                        queue.follow(&Change::PodPlaced(&info), now);
                    }
                }
                None if !is_ours(new) || is_finished(new) || new.metadata.deletion_timestamp.is_some() => {
                    queue.remove(new.metadata.uid.as_deref().unwrap_or_default());
                    nominated.remove(new.metadata.uid.as_deref().unwrap_or_default());
                }
                // A pod that is being bound: the event is older than the decision.
                None if cache.placed(new.metadata.uid.as_deref().unwrap_or_default()).is_some() => {}
                None => queue.put(Arc::new(PodInfo::new(new)), now),
            },
            Event::Deleted(old) => {
                let info = PodInfo::new(old);
                queue.remove(info.uid());
                nominated.remove(info.uid());
                cache.remove(info.uid());
                if node_of(old).is_some() {
                    queue.follow(&Change::PodGone(&info), now);
                }
            }
        }
        drop(state);
        self.wake.notify_one();
    }

    async fn serve(self: &Arc<Self>, shutdown: CancellationToken) {
        let mut tasks = tokio::task::JoinSet::new();
        while !shutdown.is_cancelled() {
            while tasks.try_join_next().is_some() {}
            let due = match self.decide() {
                Some(decision) => {
                    let Ok(permit) = self.requests.clone().acquire_owned().await else { return };
                    let scheduler = self.clone();
                    tasks.spawn(async move {
                        scheduler.perform(decision).await;
                        drop(permit);
                    });
                    continue;
                }
                None => self.state.lock().queue.next_due(),
            };
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.wake.notified() => {}
                () = timer => {}
            }
        }
        tasks.shutdown().await;
    }

    /// One cycle. Events wait meanwhile, so nothing can be missed between the look and the verdict.
    fn decide(&self) -> Option<Decision> {
        let mut state = self.state.lock();
        let State { queue, cache, start, nominated } = &mut *state;
        let now = Instant::now();
        let pod = queue.pop(now)?;
        let labels = |name: &str| self.namespaces.get("", name).and_then(|n| n.metadata.labels.clone());
        let nodes = with_nominated(cache.snapshot(), nominated, &pod);
        let spread = cache.image_spread();
        let outcome = cycle::decide(&cycle::over(&pod, &nodes, &spread, &labels), *start, |n| {
            rand::random_range(0..n.max(1))
        });
        match outcome {
            Ok(choice) => {
                *start = (*start + choice.evaluated) % nodes.len().max(1);
                // Nobody else looks at the snapshot: without this, placing the pod would copy the list of nodes.
                drop(nodes);
                cache.place(pod.clone(), &choice.node);
                nominated.remove(pod.uid());
                Some(Decision::Bind { pod, node: choice.node })
            }
            Err(nofit) => {
                queue.refuse(pod.uid(), nofit.plugins, now);
                let at = nominated.get(pod.uid()).map(|(node, _)| node.clone());
                let message = nofit.message();
                if nofit.nodes == 0 {
                    return Some(Decision::Wait { pod, message, eviction: None });
                }
                let (why, eviction) =
                    match preemption::decide(&pod, &nodes, &nofit, at.as_deref(), &spread, &labels) {
                        Outcome::Evict(eviction) => {
                            nominated.insert(pod.uid().to_owned(), (eviction.node.clone(), pod.clone()));
                            (None, Some(eviction))
                        }
                        Outcome::Pending(why) => (Some(why), None),
                        Outcome::Useless(why) => {
                            nominated.remove(pod.uid());
                            (Some(why), None)
                        }
                    };
                let message = why.map_or(message.clone(), |why| format!("{message} {why}"));
                Some(Decision::Wait { pod, message, eviction })
            }
        }
    }

    async fn perform(&self, decision: Decision) {
        match decision {
            Decision::Bind { pod, node } => self.bind(&pod, &node).await,
            Decision::Wait { pod, message, eviction } => self.wait(&pod, &message, eviction).await,
        }
    }

    async fn bind(&self, pod: &Arc<PodInfo>, node: &str) {
        let binding = Binding {
            metadata: ObjectMeta {
                name: pod.pod.metadata.name.clone(),
                namespace: pod.pod.metadata.namespace.clone(),
                uid: pod.pod.metadata.uid.clone(),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), pod.namespace());
        let result: Result<Status, _> =
            api.create_subresource("binding", pod.name(), &PostParams::default(), &binding).await;
        let about = pod.pod.object_ref(&());
        match result {
            Ok(_) => {
                self.state.lock().queue.remove(pod.uid());
                let note = format!("Successfully assigned {}/{} to {node}", pod.namespace(), pod.name());
                self.recorder.event(&about, "Normal", "Scheduled", &note);
            }
            Err(error) => self.unbind(pod, node, &about, &error),
        }
    }

    fn unbind(&self, pod: &Arc<PodInfo>, node: &str, about: &ObjectReference, error: &kube::Error) {
        let gone = matches!(error, kube::Error::Api(s) if s.is_not_found());
        let mut state = self.state.lock();
        // An event may have told meanwhile that the pod is on a node after all.
        if state.cache.placed(pod.uid()).is_some_and(|p| node_of(p).is_none()) {
            state.cache.remove(pod.uid());
            if gone {
                state.queue.remove(pod.uid());
            } else {
                state.queue.retry(pod.uid(), Instant::now());
            }
            state.queue.follow(&Change::PodGone(pod), Instant::now());
        }
        drop(state);
        self.wake.notify_one();
        if !gone {
            tracing::warn!(pod = pod.name(), namespace = pod.namespace(), node, %error, "binding failed, will retry");
            self.recorder.event(about, "Warning", "FailedScheduling", &format!("binding rejected: {error}"));
        }
    }

    async fn wait(&self, pod: &Arc<PodInfo>, message: &str, eviction: Option<Eviction>) {
        if let Some(eviction) = &eviction {
            for victim in &eviction.victims {
                self.evict(pod, victim, &eviction.node).await;
            }
        }
        self.recorder.event(&pod.pod.object_ref(&()), "Warning", "FailedScheduling", message);
        let told = pod.pod.status.as_ref().and_then(|s| s.conditions.as_ref()).is_some_and(|all| {
            all.iter().any(|c| {
                c.type_ == "PodScheduled"
                    && c.status == "False"
                    && c.reason.as_deref() == Some("Unschedulable")
                    && c.message.as_deref() == Some(message)
            })
        });
        if told && eviction.is_none() {
            return;
        }
        let old = pod.pod.status.as_ref().and_then(|s| s.conditions.as_ref()).into_iter().flatten();
        let since = old
            .clone()
            .find(|c| c.type_ == "PodScheduled" && c.status == "False")
            .and_then(|c| c.last_transition_time.as_ref().map(|t| t.0));
        let mut status = json!({"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "lastProbeTime": null,
            "lastTransitionTime": seconds(since.unwrap_or_else(Timestamp::now)),
        }]});
        if let Some(eviction) = &eviction {
            status["nominatedNodeName"] = json!(eviction.node);
        }
        // Bound to the version that was judged: a pod that has moved on must not be told that it waits.
        let meta = json!({"uid": pod.pod.metadata.uid, "resourceVersion": pod.pod.metadata.resource_version});
        let patch = Patch::Strategic(json!({"metadata": meta, "status": status}));
        let api: Api<Pod> = Api::namespaced(self.client.clone(), pod.namespace());
        match api.patch_status(pod.name(), &PatchParams::default(), &patch).await {
            Ok(_) => {}
            Err(kube::Error::Api(s)) if s.is_not_found() || s.is_conflict() => {}
            Err(error) => {
                tracing::warn!(pod = pod.name(), namespace = pod.namespace(), %error, "condition not written");
            }
        }
    }

    async fn evict(&self, pod: &PodInfo, victim: &Arc<PodInfo>, node: &str) {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), victim.namespace());
        let reason = json!({"status": {"conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": format!("{NAME}: preempting to accommodate a higher priority pod"),
            "lastTransitionTime": seconds(Timestamp::now()),
        }]}});
        if let Err(error) =
            api.patch_status(victim.name(), &PatchParams::default(), &Patch::Strategic(reason)).await
        {
            tracing::debug!(pod = victim.name(), %error, "reason for preemption not written");
        }
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: victim.pod.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match api.delete(victim.name(), &params).await {
            Ok(_) => {
                let note = format!("Preempted by pod {} on node {node}", pod.uid());
                self.recorder.event(&victim.pod.object_ref(&()), "Normal", "Preempted", &note);
            }
            Err(kube::Error::Api(s)) if s.is_not_found() => {}
            Err(error) => tracing::warn!(pod = victim.name(), %error, "preemption failed"),
        }
    }
}

fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The nodes with the room that is kept for pods of at least the same priority.
fn with_nominated(
    nodes: Snapshot,
    nominated: &HashMap<String, (String, Arc<PodInfo>)>,
    pod: &PodInfo,
) -> Snapshot {
    let others = nominated.iter().filter(|(uid, (_, n))| *uid != pod.uid() && n.priority() >= pod.priority());
    let others: Vec<_> = others.map(|(_, value)| value).collect();
    if others.is_empty() {
        return nodes;
    }
    let mut changed = Vec::clone(&nodes);
    for (node, guest) in others {
        if let Some(info) = changed.iter_mut().find(|n| n.name() == node) {
            Arc::make_mut(info).add(guest.clone());
        }
    }
    Arc::new(changed)
}
