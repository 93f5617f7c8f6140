//! The whole kubelet over the fake runtime and a small API.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::{sync::Arc, time::Duration};

use common::{Api, phase, ready};
use knarr_cri::fake::Fake;
use knarr_kubelet::KubeletConfig;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// The cgroups that a test's pods got, removed with it.
struct Cgroups(String);

impl Cgroups {
    fn new() -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Self(format!("/knarr-test-{}-{n}", std::process::id()))
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        fn remove(dir: std::path::PathBuf) {
            for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten().filter(|e| e.path().is_dir())
            {
                remove(entry.path());
            }
            let _ = std::fs::remove_dir(dir);
        }
        for tree in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove(tree.path().join(self.0.trim_start_matches('/')));
        }
    }
}

struct World {
    cgroups: Cgroups,
    api: Api,
    runtime: Arc<Fake>,
    dir: tempfile::TempDir,
    stop: CancellationToken,
}

impl World {
    fn start() -> Self {
        let world = Self::new();
        world.run(world.config());
        world
    }

    fn new() -> Self {
        let world = Self {
            cgroups: Cgroups::new(),
            api: Api::new(),
            runtime: Arc::new(Fake::default()),
            dir: tempfile::tempdir().unwrap(),
            stop: CancellationToken::new(),
        };
        world.runtime.add_image("demo:1");
        world
    }

    fn config(&self) -> KubeletConfig {
        KubeletConfig {
            node_ips: vec!["192.0.2.1".parse().unwrap()],
            root_dir: self.dir.path().join("kubelet"),
            log_dir: self.dir.path().join("logs"),
            cgroup_root: self.cgroups.0.clone(),
            ..KubeletConfig::new("n1")
        }
    }

    fn run(&self, config: KubeletConfig) {
        let (client, runtime, stop) = (self.api.client(), self.runtime.clone(), self.stop.clone());
        tokio::spawn(async move { knarr_kubelet::run(config, client, runtime, stop).await.unwrap() });
    }
}

fn spec(extra: Value) -> Value {
    let mut spec = json!({"nodeName": "n1", "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "containers": [{"name": "c", "image": "demo:1"}]});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    spec
}

/// Waits until it is so, or long enough for the assertion after it to tell.
async fn until(so: impl Fn() -> bool) {
    for _ in 0..400 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn state(object: Option<&Value>) -> Value {
    object.map(|o| o["status"]["containerStatuses"][0].clone()).unwrap_or_default()
}

#[tokio::test]
async fn a_pod_lives_and_dies() {
    let world = World::start();
    world.api.until("/api/v1/nodes/n1", "ready", ready).await;
    world
        .api
        .until("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1", "there", |o| o.is_some())
        .await;
    let path = world.api.pod("p", spec(json!({})));
    let pod = world.api.until(&path, "ready", ready).await.unwrap();
    assert_eq!((phase(Some(&pod)), pod["status"]["qosClass"].as_str()), ("Running", Some("BestEffort")));
    assert!(pod["status"]["podIP"].as_str().unwrap().starts_with("10.42.0."));
    assert_eq!(pod["status"]["hostIP"], "192.0.2.1");
    world.api.delete_gracefully(&path, 7);
    world.api.until(&path, "gone", |o| o.is_none()).await;
    let calls = world.runtime.calls();
    assert!(
        calls.iter().any(|c| c.starts_with("StopContainer container-") && c.ends_with(" 7")),
        "{calls:?}"
    );
    assert!(calls.iter().any(|c| c.starts_with("RemovePodSandbox")), "{calls:?}");
    let reasons: Vec<String> =
        world.api.reasons().iter().map(|r| r.split(':').next().unwrap().to_owned()).collect();
    for reason in ["Pulled", "Created", "Started", "Killing"] {
        assert!(reasons.contains(&reason.to_owned()), "{reason}: {reasons:?}");
    }
    assert!(!world.dir.path().join("kubelet/pods").read_dir().is_ok_and(|mut d| d.next().is_some()));
    world.stop.cancel();
}

#[tokio::test]
async fn failing_containers_restart_and_then_back_off() {
    let world = World::start();
    let path = world.api.pod("p", spec(json!({})));
    world.api.until(&path, "ready", ready).await;
    world.runtime.exit("c", 1);
    world.api.until(&path, "restarted", |o| state(o)["restartCount"] == 1 && ready(o)).await;
    world.runtime.exit("c", 2);
    let pod = world
        .api
        .until(&path, "in back-off", |o| state(o)["state"]["waiting"]["reason"] == "CrashLoopBackOff")
        .await;
    let state = state(pod.as_ref());
    assert_eq!(state["lastState"]["terminated"]["exitCode"], 2);
    assert!(
        state["state"]["waiting"]["message"]
            .as_str()
            .unwrap()
            .starts_with("back-off 10s restarting failed container=c pod=p_default("),
        "{state}"
    );
    world.stop.cancel();
}

#[tokio::test]
async fn pods_that_end_keep_their_phase() {
    let world = World::start();
    let good = world.api.pod("good", spec(json!({"restartPolicy": "Never"})));
    world.api.until(&good, "ready", ready).await;
    world.runtime.exit("c", 0);
    world.api.until(&good, "succeeded", |o| phase(o) == "Succeeded").await;
    let bad = world.api.pod(
        "bad",
        spec(json!({"restartPolicy": "Never", "initContainers": [{"name": "i", "image": "demo:1"}]})),
    );
    world
        .api
        .until(&bad, "initializing", |o| {
            o.is_some_and(|o| o["status"]["initContainerStatuses"][0]["state"]["running"].is_object())
        })
        .await;
    world.runtime.exit("i", 5);
    let pod = world.api.until(&bad, "failed", |o| phase(o) == "Failed").await.unwrap();
    assert_eq!(pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"], 5);
    world.api.delete_gracefully(&good, 0);
    world.api.until(&good, "gone", |o| o.is_none()).await;
    world.stop.cancel();
}

#[tokio::test]
async fn what_cannot_start_says_why() {
    let world = World::start();
    let container = |name: &str, extra: Value| {
        let mut c = json!({"name": "c", "image": "demo:1"});
        c.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        world.api.pod(name, spec(json!({"containers": [c]})))
    };
    for (name, extra, reason) in [
        ("never", json!({"image": "no:1", "imagePullPolicy": "Never"}), "ErrImageNeverPull"),
        ("pull", json!({"image": "no:1"}), "ImagePullBackOff"),
        ("name", json!({"image": "Bad Name"}), "InvalidImageName"),
        (
            "config",
            json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]}),
            "CreateContainerConfigError",
        ),
    ] {
        let path = container(name, extra);
        let pod = world.api.until(&path, reason, |o| state(o)["state"]["waiting"]["reason"] == reason).await;
        assert_eq!(phase(pod.as_ref()), "Pending");
    }
    world.stop.cancel();
}

#[tokio::test]
async fn a_restarted_kubelet_takes_over_without_touching_containers() {
    let world = World::start();
    let path = world.api.pod("p", spec(json!({})));
    world.api.until(&path, "ready", ready).await;
    world.stop.cancel();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = world.runtime.calls();
    let again = World { stop: CancellationToken::new(), ..world };
    again.run(again.config());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(again.runtime.calls(), before);
    assert!(ready(again.api.get(&path).as_ref()));
    let writes = *again.api.status_writes.lock();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(*again.api.status_writes.lock(), writes, "an unchanged status is not written");
    again.api.remove(&path);
    for _ in 0..100 {
        if again.runtime.calls().iter().any(|c| c.starts_with("RemovePodSandbox")) {
            again.stop.cancel();
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the pod without an object lives on");
}

#[tokio::test]
async fn volumes_and_environment_reach_the_container_and_follow_changes() {
    let world = World::start();
    let map = "/api/v1/namespaces/default/configmaps/m";
    let object =
        |value: &str| json!({"metadata": {"name": "m", "namespace": "default"}, "data": {"k": value}});
    world.api.put(map, object("one"));
    let container = json!({
        "name": "c", "image": "demo:1", "args": ["$(A)-$(N)"], "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}, {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}],
        "readinessProbe": {"exec": {"command": ["check"]}, "periodSeconds": 1},
    });
    let path = world.api.pod(
        "p",
        spec(json!({"containers": [container], "volumes": [{"name": "v", "configMap": {"name": "m"}}]})),
    );
    world.api.until(&path, "ready", ready).await;
    let config = world.runtime.container_config("c").unwrap();
    assert_eq!(config.args, ["one-p"]);
    let mount = config.mounts.iter().find(|m| m.container_path == "/v").unwrap();
    let file = std::path::Path::new(&mount.host_path).join("k");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "one");
    world.api.put(map, object("two"));
    for _ in 0..200 {
        if std::fs::read_to_string(&file).is_ok_and(|text| text == "two") {
            world.stop.cancel();
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the volume did not follow");
}

#[tokio::test]
async fn unhealthy_containers_are_replaced() {
    let world = World::start();
    let probe = json!({"exec": {"command": ["check"]}, "periodSeconds": 1, "failureThreshold": 1});
    let container = json!({"name": "c", "image": "demo:1", "livenessProbe": probe});
    let path = world.api.pod("p", spec(json!({"containers": [container]})));
    world.api.until(&path, "ready", ready).await;
    world.runtime.answer_exec("c", 1, "sick");
    world.api.until(&path, "restarted", |o| state(o)["restartCount"] == 1).await;
    world.runtime.answer_exec("c", 0, "");
    let reasons = world.api.reasons();
    assert!(reasons.iter().any(|r| r == "Unhealthy: Liveness probe failed: sick"), "{reasons:?}");
    assert!(
        reasons.iter().any(|r| r == "Killing: Container c failed liveness probe, will be restarted"),
        "{reasons:?}"
    );
    world.stop.cancel();
}

fn conditions(object: Option<&Value>) -> Vec<String> {
    let all = object.and_then(|o| o["status"]["conditions"].as_array()).cloned().unwrap_or_default();
    all.iter()
        .map(|c| format!("{}={}", c["type"].as_str().unwrap(), c["reason"].as_str().unwrap_or("")))
        .filter(|c| c.starts_with("PodResize"))
        .collect()
}

#[tokio::test]
async fn what_does_not_fit_the_node_is_turned_away() {
    let world = World::start();
    world.api.until("/api/v1/nodes/n1", "ready", ready).await;
    let port = json!([{"name": "c", "image": "demo:1", "ports": [{"containerPort": 80, "hostPort": 21017}]}]);
    let first = world.api.pod("first", spec(json!({"containers": port.clone()})));
    world.api.until(&first, "ready", ready).await;
    let second = world.api.pod("second", spec(json!({"containers": port.clone()})));
    let pod = world.api.until(&second, "failed", |o| phase(o) == "Failed").await.unwrap();
    assert_eq!(pod["status"]["reason"], "NodePorts");
    assert_eq!(
        pod["status"]["message"],
        "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
    );
    let elsewhere = world.api.pod("third", spec(json!({"nodeSelector": {"no": "where"}})));
    let pod = world.api.until(&elsewhere, "failed", |o| phase(o) == "Failed").await.unwrap();
    assert_eq!(pod["status"]["reason"], "NodeAffinity");
    assert!(
        world.runtime.sandbox_config("second").is_none() && world.runtime.sandbox_config("third").is_none()
    );
    // What has gone makes room.
    world.api.remove(&first);
    let again = world.api.pod("fourth", spec(json!({"containers": port})));
    world.api.until(&again, "ready", ready).await;
    world.stop.cancel();
}

#[tokio::test]
async fn a_node_that_was_removed_comes_back_at_once() {
    let world = World::start();
    let node = world.api.until("/api/v1/nodes/n1", "ready", ready).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = tokio::time::Instant::now();
    world.api.remove("/api/v1/nodes/n1");
    let other =
        |o: Option<&Value>| ready(o) && o.is_some_and(|o| o["metadata"]["uid"] != node["metadata"]["uid"]);
    world.api.until("/api/v1/nodes/n1", "registered again", other).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    world.stop.cancel();
}

#[tokio::test]
async fn resources_change_in_place() {
    let world = World::start();
    world.api.until("/api/v1/nodes/n1", "ready", ready).await;
    let amounts = |cpu: &str, memory: &str| json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}});
    let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    let with = |r: Value| {
        spec(
            json!({"containers": [{"name": "c", "image": "demo:1", "resources": r, "resizePolicy": policy}]}),
        )
    };
    let path = world.api.pod("p", with(amounts("100m", "32Mi")));
    world.api.until(&path, "ready", ready).await;
    let wanted = |r: Value| {
        let mut pod = world.api.get(&path).unwrap();
        pod["spec"] = with(r);
        world.api.put(&path, pod);
    };
    let shown = |cpu: &'static str, memory: &'static str| {
        move |o: Option<&Value>| {
            let r = &state(o)["resources"];
            r["limits"]["cpu"] == cpu && r["requests"]["memory"] == memory && conditions(o).is_empty()
        }
    };
    // In place.
    wanted(amounts("200m", "32Mi"));
    let pod = world.api.until(&path, "resized", shown("200m", "32Mi")).await;
    assert_eq!(state(pod.as_ref())["restartCount"], 0);
    let given = || world.runtime.container_config("c").unwrap().linux.unwrap().resources.unwrap();
    assert_eq!((given().cpu_quota, given().cpu_shares), (20_000, 204));
    // By a restart.
    wanted(amounts("200m", "64Mi"));
    let pod = world.api.until(&path, "restarted", |o| shown("200m", "64Mi")(o) && ready(o)).await;
    assert_eq!(state(pod.as_ref())["restartCount"], 1);
    assert_eq!(given().memory_limit_in_bytes, 64 << 20);
    // Not at all; what was promised stays in force.
    wanted(amounts("100000", "64Mi"));
    let pod = world.api.until(&path, "refused", |o| !conditions(o).is_empty()).await;
    assert_eq!(conditions(pod.as_ref()), ["PodResizePending=Infeasible"]);
    assert_eq!(state(pod.as_ref())["resources"]["limits"]["cpu"], "200m");
    // A failure of the runtime is told, and tried again.
    world.runtime.fail("UpdateContainerResources", "no");
    wanted(amounts("300m", "64Mi"));
    let pod = world.api.until(&path, "failing", |o| conditions(o) == ["PodResizeInProgress=Error"]).await;
    assert_eq!(state(pod.as_ref())["allocatedResources"]["cpu"], "300m");
    assert_eq!(state(pod.as_ref())["resources"]["limits"]["cpu"], "200m");
    world.api.until(&path, "resized after all", shown("300m", "64Mi")).await;
    for reason in ["ResizeStarted", "ResizeCompleted", "ResizeInfeasible", "ResizeError"] {
        assert!(world.api.reasons().iter().any(|r| r.starts_with(&format!("{reason}:"))), "{reason}");
    }
    world.stop.cancel();
}

#[tokio::test]
async fn an_image_is_a_read_only_volume() {
    let world = World::start();
    let contents = world.dir.path().join("contents");
    std::fs::create_dir_all(contents.join("sub")).unwrap();
    std::fs::write(contents.join("sub/data.json"), "{}").unwrap();
    world.runtime.add_to_registry("data:1");
    world.runtime.set_contents("data:1", &contents);
    world.api.until("/api/v1/nodes/n1", "ready", ready).await;
    let mounts =
        json!([{"name": "v", "mountPath": "/all"}, {"name": "v", "mountPath": "/part", "subPath": "sub"}]);
    let path = world.api.pod(
        "p",
        spec(json!({
            "containers": [{"name": "c", "image": "demo:1", "volumeMounts": mounts}],
            "volumes": [{"name": "v", "image": {"reference": "data:1", "pullPolicy": "Always"}}],
        })),
    );
    world.api.until(&path, "ready", ready).await;
    let config = world.runtime.container_config("c").unwrap();
    let at = |path: &str| config.mounts.iter().find(|m| m.container_path == path).unwrap().clone();
    assert!(at("/all").readonly && at("/part").readonly);
    assert!(std::path::Path::new(&at("/part").host_path).join("data.json").exists());
    assert!(std::fs::write(format!("{}/new", at("/all").host_path), "").is_err(), "nobody writes there");
    world.api.delete_gracefully(&path, 1);
    world.api.until(&path, "gone", |o| o.is_none()).await;
    assert!(contents.join("sub/data.json").exists() && !std::path::Path::new(&at("/all").host_path).exists());
    assert!(world.runtime.calls().iter().any(|c| c.starts_with("ReleaseImages")));
    // One that nobody has.
    let path = world.api.pod(
        "q",
        spec(json!({
            "containers": [{"name": "c", "image": "demo:1", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "image": {"reference": "gone:1"}}],
        })),
    );
    let reason = |o: Option<&Value>| state(o)["state"]["waiting"]["reason"].as_str().unwrap_or("").to_owned();
    world.api.until(&path, "waiting for the image", |o| reason(o) == "ImagePullBackOff").await;
    world.stop.cancel();
}

/// Says no until it is told otherwise.
#[derive(Default)]
struct Guard {
    open: std::sync::atomic::AtomicBool,
    asked: parking_lot::Mutex<Vec<String>>,
    released: parking_lot::Mutex<Vec<String>>,
}

#[async_trait::async_trait]
impl knarr_kubelet::Isolation for Guard {
    async fn isolate(
        &self,
        pod: &k8s_openapi::api::core::v1::Pod,
        addresses: &std::collections::BTreeSet<std::net::IpAddr>,
    ) -> Result<(), String> {
        let name = pod.metadata.name.as_deref().unwrap();
        self.asked.lock().push(format!("{name} {addresses:?}"));
        let open = self.open.load(std::sync::atomic::Ordering::Relaxed);
        open.then_some(()).ok_or_else(|| "the guard sleeps".to_owned())
    }

    fn release(&self, uid: &str) {
        self.released.lock().push(uid.to_owned());
    }
}

#[tokio::test]
async fn nothing_runs_in_a_pod_before_it_is_isolated() {
    let (world, guard) = (World::new(), Arc::new(Guard::default()));
    world.run(KubeletConfig { isolation: Some(guard.clone()), ..world.config() });
    let on_host = world.api.pod("h", spec(json!({"hostNetwork": true})));
    world.api.until(&on_host, "ready without being asked for", ready).await;
    let path = world.api.pod("p", spec(json!({})));
    until(|| world.api.reasons().iter().any(|r| r.starts_with("NetworkNotReady:"))).await;
    let reasons = world.api.reasons();
    let told = "NetworkNotReady: network is not ready: the guard sleeps";
    assert!(reasons.iter().any(|r| r.starts_with(told)), "{reasons:?}");
    let started = |calls: &[String]| calls.iter().filter(|c| c.starts_with("CreateContainer")).count();
    assert_eq!(started(&world.runtime.calls()), 1, "only the other pod's: {:?}", world.runtime.calls());
    guard.open.store(true, std::sync::atomic::Ordering::Relaxed);
    let pod = world.api.until(&path, "ready", ready).await.unwrap();
    let address = pod["status"]["podIP"].as_str().unwrap();
    let asked = guard.asked.lock().clone();
    assert!(asked.len() > 1 && asked.iter().all(|a| *a == format!("p {{{address}}}")), "{asked:?}");
    // The next run asks for what it takes over, though it starts nothing.
    let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
    world.stop.cancel();
    tokio::time::sleep(Duration::from_millis(100)).await;
    guard.asked.lock().clear();
    let again = World { stop: CancellationToken::new(), ..world };
    again.run(KubeletConfig { isolation: Some(guard.clone()), ..again.config() });
    let asked_again = || guard.asked.lock().iter().any(|a| *a == format!("p {{{address}}}"));
    until(asked_again).await;
    assert!(asked_again() && guard.released.lock().is_empty(), "{:?}", guard.released.lock());
    again.api.delete_gracefully(&path, 1);
    again.api.until(&path, "gone", |o| o.is_none()).await;
    assert!(guard.released.lock().contains(&uid), "{:?}", guard.released.lock());
    again.stop.cancel();
}

#[tokio::test]
async fn a_node_with_too_little_left_says_so() {
    let condition = |o: Option<&Value>, kind: &str| {
        let all = o.map(|o| o["status"]["conditions"].clone()).unwrap_or_default();
        let found = all.as_array().into_iter().flatten().find(|c| c["type"] == kind).cloned();
        found.map(|c| format!("{} {}: {}", c["status"], c["reason"], c["message"]).replace('"', ""))
    };
    for (short_of, wanted) in [
        ("nodefs.available", "DiskPressure True KubeletHasDiskPressure: kubelet has disk pressure"),
        ("imagefs.available", "DiskPressure True KubeletHasDiskPressure: kubelet has disk pressure"),
        (
            "memory.available",
            "MemoryPressure True KubeletHasInsufficientMemory: kubelet has insufficient memory available",
        ),
        (
            "pid.available",
            "PIDPressure True KubeletHasInsufficientPID: kubelet has insufficient PID available",
        ),
        ("none", "DiskPressure False KubeletHasNoDiskPressure: kubelet has no disk pressure"),
        ("none", "MemoryPressure False KubeletHasSufficientMemory: kubelet has sufficient memory available"),
    ] {
        let world = World::new();
        let mut config = KubeletConfig { eviction_hard: Vec::new(), ..world.config() };
        if short_of != "none" {
            let argument = format!("eviction-hard={short_of}<1Ei");
            knarr_kubelet::arguments::apply(&mut config, &[argument]).unwrap();
        }
        world.run(config);
        let (kind, wanted) = wanted.split_once(' ').unwrap();
        let told = |o: Option<&Value>| condition(o, kind).as_deref() == Some(wanted);
        world.api.until("/api/v1/nodes/n1", &format!("{kind} for {short_of}"), told).await;
        world.stop.cancel();
    }
}

#[tokio::test]
async fn a_start_that_is_under_way_is_not_given_up_when_the_pod_goes() {
    let world = World::start();
    world.runtime.hold("StartContainer");
    let path = world.api.pod("p", spec(json!({})));
    let begun = || world.runtime.calls().iter().any(|c| c == "StartContainer c");
    until(begun).await;
    assert!(begun());
    world.api.delete_gracefully(&path, 1);
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.runtime.release();
    world.api.until(&path, "gone", |o| o.is_none()).await;
    let calls = world.runtime.calls();
    assert!(!calls.iter().any(|c| c.starts_with("given up")), "{calls:?}");
    let at = |what: &str| calls.iter().position(|c| c.starts_with(what));
    assert!(at("StopContainer").is_some() && at("StartContainer") < at("StopContainer"), "{calls:?}");
    world.stop.cancel();
}
