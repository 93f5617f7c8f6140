//! The node object: registration, lease and status, on tasks that never wait for pods.

use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{Node as NodeObject, NodeCondition, NodeSpec},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference, Time},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    Error, KubeletConfig,
    arguments::{Amount, Signal},
    own::Seen,
    worker::Node,
};

const LEASE_PERIOD: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
/// How often the conditions are looked at; written only when something changed.
const CHECK_PERIOD: Duration = Duration::from_secs(10);
/// An unchanged status is written again after this.
const REPORT_PERIOD: Duration = Duration::from_secs(300);
const MOST_IMAGES: usize = 50;
/// Pause after a registration that the API refuses.
const RETRY: Duration = Duration::from_secs(10);

/// The machine as it is.
#[derive(Debug, Clone)]
pub struct Machine {
    cpus: usize,
    /// Bytes of memory.
    pub memory_bytes: i64,
    disk_bytes: u64,
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// A value of `/proc/meminfo`, in bytes.
fn meminfo(name: &str) -> Option<i64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse::<i64>().ok().map(|kib| kib * 1024)
}

impl Machine {
    /// Looks at the machine.
    pub fn of_host(config: &KubeletConfig) -> Self {
        let disk_bytes = rustix::fs::statvfs(&config.root_dir).map_or(0, |fs| fs.f_blocks * fs.f_frsize);
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: meminfo("MemTotal:").unwrap_or_default(),
            disk_bytes,
        }
    }

    fn capacity(&self, config: &KubeletConfig) -> BTreeMap<String, String> {
        [
            ("cpu", self.cpus.to_string()),
            ("memory", format!("{}Ki", self.memory_bytes / 1024)),
            ("ephemeral-storage", format!("{}Ki", self.disk_bytes / 1024)),
            ("pods", config.max_pods.to_string()),
            ("hugepages-1Gi", "0".to_owned()),
            ("hugepages-2Mi", "0".to_owned()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }

    /// What pods may use.
    pub fn allocatable(&self, config: &KubeletConfig) -> BTreeMap<String, String> {
        self.capacity(config)
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn labels(config: &KubeletConfig) -> BTreeMap<String, String> {
    let own = [
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/arch", architecture()),
        ("kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture()),
        ("beta.kubernetes.io/os", "linux"),
    ];
    own.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).chain(config.labels.clone()).collect()
}

/// Creates the node object, or takes over the one that is there.
pub async fn register(node: &Arc<Node>, machine: &Machine) -> Result<(), Error> {
    let config = &node.config;
    let api: Api<NodeObject> = Api::all(node.client.clone());
    let mut object = NodeObject::default();
    object.metadata.name = Some(config.node_name.clone());
    object.metadata.labels = Some(labels(config));
    object.metadata.annotations = Some(BTreeMap::from([(
        "volumes.kubernetes.io/controller-managed-attach-detach".to_owned(),
        "true".to_owned(),
    )]));
    object.spec = Some(NodeSpec {
        taints: Some(config.taints.clone()).filter(|t| !t.is_empty()),
        ..Default::default()
    });
    let status = status(node, machine, &[]).await;
    object.status = serde_json::from_value(status).ok();
    let mut pause = Duration::from_millis(50);
    loop {
        let done = match api.create(&PostParams::default(), &object).await {
            Err(kube::Error::Api(answer)) if answer.code == 409 => {
                let patch = json!({"metadata": {"labels": labels(config)}});
                api.patch(&config.node_name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
            }
            other => other.map(drop),
        };
        match done {
            Ok(()) => return Ok(()),
            Err(kube::Error::Api(answer)) if matches!(answer.code, 400 | 422) => {
                return Err(Error::Node(config.node_name.clone(), answer.message.clone()));
            }
            Err(error) => tracing::warn!(node = config.node_name, %error, "registering the node"),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(7)),
            () = node.shutdown.cancelled() => return Ok(()),
        }
    }
}

/// Renews the node's lease until shutdown.
pub async fn keep_lease(node: &Arc<Node>) {
    let api: Api<Lease> = Api::namespaced(node.client.clone(), "kube-node-lease");
    let name = node.config.node_name.clone();
    let mut exists = false;
    loop {
        let result = if exists { renew(&api, &name).await } else { create(node, &api, &name).await };
        let wait = match result {
            Ok(()) => {
                exists = true;
                LEASE_PERIOD
            }
            Err(error) => {
                exists = exists && !matches!(&error, kube::Error::Api(answer) if answer.code == 404);
                tracing::warn!(node = name, %error, "renewing the node's lease");
                Duration::from_secs(1)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = node.shutdown.cancelled() => return,
        }
    }
}

async fn renew(api: &Api<Lease>, name: &str) -> kube::Result<()> {
    let patch = json!({"spec": {"renewTime": MicroTime(Timestamp::now()), "holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS}});
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

async fn create(node: &Arc<Node>, api: &Api<Lease>, name: &str) -> kube::Result<()> {
    let owner = Api::<NodeObject>::all(node.client.clone()).get(name).await?;
    let mut lease = Lease::default();
    lease.metadata.name = Some(name.to_owned());
    lease.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.to_owned(),
        uid: owner.metadata.uid.unwrap_or_default(),
        ..Default::default()
    }]);
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(name.to_owned()),
        lease_duration_seconds: Some(LEASE_SECONDS),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..Default::default()
    });
    match api.create(&PostParams::default(), &lease).await {
        Err(kube::Error::Api(answer)) if answer.code == 409 => renew(api, name).await,
        other => other.map(drop),
    }
}

/// Records an event about the node.
pub(crate) fn event(node: &Arc<Node>, reason: &str, message: &str) {
    let name = Some(node.config.node_name.clone());
    let reference = k8s_openapi::api::core::v1::ObjectReference {
        kind: Some("Node".to_owned()),
        api_version: Some("v1".to_owned()),
        uid: name.clone(),
        name,
        ..Default::default()
    };
    node.recorder.event(&reference, "Normal", reason, message);
}

/// Keeps the node's status true until shutdown.
pub async fn keep_status(node: &Arc<Node>, machine: &Machine) {
    let api: Api<NodeObject> = Api::all(node.client.clone());
    let (mut before, mut conditions, mut written_at): (Value, Vec<NodeCondition>, _) =
        (Value::Null, Vec::new(), tokio::time::Instant::now());
    let mut pause = Duration::from_millis(100);
    let mut own = node.own.subscribe();
    loop {
        if conditions.is_empty() {
            conditions = api
                .get_opt(&node.config.node_name)
                .await
                .ok()
                .flatten()
                .and_then(|n| n.status?.conditions)
                .unwrap_or_default();
        }
        let status = status(node, machine, &conditions).await;
        let ready = status["conditions"]
            .as_array()
            .is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
        // Until the node is ready it is looked at often, for it will be soon.
        let mut wait = if ready { CHECK_PERIOD } else { Duration::from_millis(500) };
        let mut gone = false;
        if significant(&status) != significant(&before) || written_at.elapsed() > REPORT_PERIOD {
            match write(&api, &node.config.node_name, &status).await {
                Ok(()) => {
                    let was = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
                    if was != ready {
                        let reason = if ready { "NodeReady" } else { "NodeNotReady" };
                        event(
                            node,
                            reason,
                            &format!("Node {} status is now: {reason}", node.config.node_name),
                        );
                    }
                    conditions = serde_json::from_value(status["conditions"].clone()).unwrap_or_default();
                    (before, written_at, pause) =
                        (status, tokio::time::Instant::now(), Duration::from_millis(100));
                }
                Err(kube::Error::Api(answer)) if answer.code == 404 => gone = true,
                Err(error) => {
                    tracing::warn!(node = node.config.node_name, %error, "writing the node's status");
                    wait = pause;
                    pause = (pause * 2).min(CHECK_PERIOD);
                }
            }
        }
        if !gone {
            gone = tokio::select! {
                () = tokio::time::sleep(wait) => false,
                gone = news(&mut own, &before) => {
                    (before, conditions) = (Value::Null, Vec::new());
                    gone
                }
                () = node.shutdown.cancelled() => return,
            };
        }
        if gone {
            tracing::warn!(node = node.config.node_name, "the node was removed and is still here");
            (before, conditions) = (Value::Null, Vec::new());
            if let Err(error) = register(node, machine).await {
                tracing::error!(%error, "registering the node again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Waits until the Node is gone (true), or is seen with conditions that contradict what was written last: a node that
/// was cut off was declared lost, and says that it is back as soon as it hears of that.
async fn news(own: &mut tokio::sync::watch::Receiver<Seen>, written: &Value) -> bool {
    let said: Vec<NodeCondition> = serde_json::from_value(written["conditions"].clone()).unwrap_or_default();
    while own.changed().await.is_ok() {
        let node = match &*own.borrow_and_update() {
            Seen::Unknown => continue,
            Seen::Gone => return true,
            Seen::There(node) => node.clone(),
        };
        let now = node.status.as_ref().and_then(|s| s.conditions.as_ref());
        let differs = |c: &NodeCondition| said.iter().any(|s| s.type_ == c.type_ && s.status != c.status);
        if now.into_iter().flatten().any(differs) {
            return false;
        }
    }
    std::future::pending().await
}

/// The status without what always differs.
fn significant(status: &Value) -> Value {
    let mut status = status.clone();
    if let Some(Value::Array(conditions)) = status.get_mut("conditions") {
        conditions
            .iter_mut()
            .filter_map(Value::as_object_mut)
            .for_each(|c| drop(c.remove("lastHeartbeatTime")));
    }
    status
}

async fn write(api: &Api<NodeObject>, name: &str, status: &Value) -> kube::Result<()> {
    let mut status = status.clone();
    if let Some(Value::Array(addresses)) = status.get_mut("addresses") {
        addresses.insert(0, json!({"$patch": "replace"}));
    }
    api.patch_status(name, &PatchParams::default(), &Patch::Strategic(json!({"status": status})))
        .await
        .map(drop)
}

async fn status(node: &Arc<Node>, machine: &Machine, before: &[NodeCondition]) -> Value {
    let config = &node.config;
    let mut addresses: Vec<Value> =
        config.node_ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip.to_string()})).collect();
    addresses.push(json!({"type": "Hostname", "address": config.node_name}));
    let images: Vec<Value> = match node.runtime.list_images().await {
        Ok(mut images) => {
            images.sort_by_key(|i| std::cmp::Reverse(i.size));
            let named = images.into_iter().filter(|i| !i.repo_tags.is_empty() || !i.repo_digests.is_empty());
            named.take(MOST_IMAGES).map(|i| json!({"names": i.repo_digests.iter().chain(&i.repo_tags).collect::<Vec<_>>(), "sizeBytes": i.size})).collect()
        }
        Err(error) => {
            tracing::warn!(%error, "listing images");
            Vec::new()
        }
    };
    let port =
        config.serving_tls.as_ref().map(|_| json!({"kubeletEndpoint": {"Port": config.listen.port()}}));
    json!({
        "addresses": addresses,
        "capacity": machine.capacity(config),
        "allocatable": machine.allocatable(config),
        "conditions": conditions(node, before).await,
        "daemonEndpoints": port,
        "images": images,
        "nodeInfo": info(node).await,
    })
}

async fn info(node: &Arc<Node>) -> Value {
    let version = node.runtime.version().await.unwrap_or_default();
    let release = read("/etc/os-release");
    let os = release
        .lines()
        .find_map(|l| l.strip_prefix("PRETTY_NAME="))
        .unwrap_or("Linux")
        .trim_matches('"')
        .to_owned();
    json!({
        "architecture": architecture(),
        "operatingSystem": "linux",
        "bootID": read("/proc/sys/kernel/random/boot_id"),
        "machineID": read("/etc/machine-id"),
        "systemUUID": read("/sys/class/dmi/id/product_uuid"),
        "kernelVersion": read("/proc/sys/kernel/osrelease"),
        "osImage": os,
        "containerRuntimeVersion": format!("{}://{}", version.runtime_name, version.runtime_version),
        "kubeletVersion": node.config.kubelet_version,
        "kubeProxyVersion": "",
    })
}

/// Whether a limit of any of these signals is met. What cannot be measured is not.
fn pressed(node: &Node, signals: &[Signal]) -> bool {
    let mut limits = node.config.eviction_hard.iter().filter(|t| signals.contains(&t.signal));
    limits.any(|t| amount(node, t.signal).is_some_and(|a| t.met(a)))
}

/// What is left of memory, disk and process numbers.
fn amount(node: &Node, signal: Signal) -> Option<Amount> {
    let unsigned = |n: i64| u64::try_from(n).ok();
    // The images of our own containerd lie below the same data directory; those of another runtime are not looked at.
    let disk = || Amount::of_file_system(&node.config.root_dir);
    match signal {
        Signal::Memory => Some(Amount {
            available: unsigned(meminfo("MemAvailable:")?)?,
            capacity: unsigned(meminfo("MemTotal:")?)?,
        }),
        Signal::NodeFs | Signal::ImageFs => Some(disk()?.0),
        Signal::NodeFsInodes | Signal::ImageFsInodes => disk()?.1,
        Signal::Pid => {
            let capacity: u64 = read("/proc/sys/kernel/pid_max").parse().ok()?;
            let running: u64 =
                read("/proc/loadavg").split_whitespace().nth(3)?.split('/').nth(1)?.parse().ok()?;
            Some(Amount { available: capacity.saturating_sub(running), capacity })
        }
    }
}

/// Whether the runtime and its network are ready, and what they say if not.
async fn runtime_ready(node: &Arc<Node>) -> (bool, String) {
    match node.runtime.status().await {
        Ok(answer) => {
            let failing: Vec<String> = answer
                .status
                .unwrap_or_default()
                .conditions
                .iter()
                .filter(|c| !c.status && matches!(c.r#type.as_str(), "RuntimeReady" | "NetworkReady"))
                .map(|c| {
                    let what = if c.r#type == "NetworkReady" {
                        "container runtime network not ready"
                    } else {
                        "container runtime not ready"
                    };
                    format!("{what}: {}=false reason:{} message:{}", c.r#type, c.reason, c.message)
                })
                .collect();
            (failing.is_empty(), failing.join(", "))
        }
        Err(error) => (false, format!("container runtime is down: {error}")),
    }
}

async fn conditions(node: &Arc<Node>, before: &[NodeCondition]) -> Vec<NodeCondition> {
    let pressure = |yes: bool, kind: &str, reason: [&str; 2], message: [&str; 2]| {
        let n = usize::from(!yes);
        (kind.to_owned(), yes, reason[n].to_owned(), message[n].to_owned())
    };
    let met = |signals: &[Signal]| pressed(node, signals);
    let memory = ["KubeletHasInsufficientMemory", "KubeletHasSufficientMemory"];
    let disk = met(&[Signal::NodeFs, Signal::NodeFsInodes, Signal::ImageFs, Signal::ImageFsInodes]);
    let (ready, message) = runtime_ready(node).await;
    let message = if ready { "kubelet is posting ready status".to_owned() } else { message };
    let all = [
        pressure(
            met(&[Signal::Memory]),
            "MemoryPressure",
            memory,
            ["kubelet has insufficient memory available", "kubelet has sufficient memory available"],
        ),
        pressure(
            disk,
            "DiskPressure",
            ["KubeletHasDiskPressure", "KubeletHasNoDiskPressure"],
            ["kubelet has disk pressure", "kubelet has no disk pressure"],
        ),
        pressure(
            met(&[Signal::Pid]),
            "PIDPressure",
            ["KubeletHasInsufficientPID", "KubeletHasSufficientPID"],
            ["kubelet has insufficient PID available", "kubelet has sufficient PID available"],
        ),
        (
            "Ready".to_owned(),
            ready,
            if ready { "KubeletReady" } else { "KubeletNotReady" }.to_owned(),
            message,
        ),
    ];
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
    all.into_iter()
        .map(|(kind, yes, reason, message)| {
            let status = if yes { "True" } else { "False" };
            let since = before
                .iter()
                .find(|c| c.type_ == kind && c.status == status)
                .and_then(|c| c.last_transition_time.clone());
            NodeCondition {
                type_: kind,
                status: status.to_owned(),
                reason: Some(reason),
                message: Some(message),
                last_heartbeat_time: Some(Time(now)),
                last_transition_time: since.or(Some(Time(now))),
            }
        })
        .collect()
}
