//! All controllers and the scheduler against the real API server in this process, with RBAC in force.
//! A small fake kubelet brings bound pods up and ends deleted ones.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
    ResourceQuota, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use knarr_client::Informers;
use knarr_controllers::{ClientFor, Config};
use knarr_harness::TestServer;
use knarr_machinery::UserInfo;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

struct Cluster {
    server: TestServer,
    admin: Client,
    shutdown: CancellationToken,
}

fn user(name: &str) -> UserInfo {
    let groups: &[&str] = if name.starts_with("system:serviceaccount:") {
        &["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"]
    } else {
        &["system:authenticated"]
    };
    UserInfo::component(name, groups)
}

impl Cluster {
    async fn start() -> Self {
        Self::start_with(Config::default()).await
    }

    async fn start_with(config: Config) -> Self {
        let _set = tracing_subscriber::fmt()
            .with_env_filter(std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".into()))
            .with_test_writer()
            .try_init();
        let server = TestServer::start_with_auth().await;
        let (admin, shutdown) = (server.admin_client(), CancellationToken::new());
        let names = knarr_controllers::CONTROLLERS
            .iter()
            .map(|c| format!("system:serviceaccount:kube-system:{}", c.account))
            .chain(["system:kube-controller-manager".to_owned()]);
        let clients: std::collections::HashMap<String, Client> =
            names.map(|n| (n.clone(), server.client(user(&n)))).collect();
        let client_for: ClientFor = Arc::new(move |name| clients[name].clone());
        let config = Config { root_ca: "CA".into(), cluster_cidrs: vec!["10.42.0.0/16".into()], ..config };
        tokio::spawn(knarr_controllers::run(config, client_for, shutdown.clone()));
        tokio::spawn(knarr_scheduler::run(server.client(user("system:kube-scheduler")), shutdown.clone()));
        let cluster = Self { server, admin, shutdown };
        tokio::spawn(kubelet(cluster.admin.clone(), cluster.shutdown.clone()));
        cluster.node("node-1").await;
        for name in ["default", "demo"] {
            cluster.namespace(name).await;
        }
        cluster
    }

    async fn node(&self, name: &str) {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        let api = Api::<Node>::all(self.admin.clone());
        api.create(&PostParams::default(), &node).await.unwrap();
        let status = json!({"status": {
            "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}],
        }});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    async fn namespace(&self, name: &str) {
        let namespace: Namespace = serde_json::from_value(json!({
            "metadata": {"name": name}, "spec": {"finalizers": ["kubernetes"]},
        }))
        .unwrap();
        // Some exist from the start.
        let _exists =
            Api::<Namespace>::all(self.admin.clone()).create(&PostParams::default(), &namespace).await;
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.admin.clone(), "demo")
    }

    async fn make<K>(&self, value: Value) -> K
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + serde::Serialize,
    {
        self.api::<K>().create(&PostParams::default(), &serde_json::from_value(value).unwrap()).await.unwrap()
    }

    async fn list<K>(&self) -> Vec<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        self.api::<K>().list(&ListParams::default()).await.unwrap().items
    }

    async fn events(&self) -> Vec<String> {
        let events = self.list::<Event>().await;
        events
            .into_iter()
            .map(|e| format!("{}: {}", e.reason.unwrap_or_default(), e.message.unwrap_or_default()))
            .collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
        let _alive = &self.server;
    }
}

/// Waits for a condition, up to ten seconds.
async fn until<F, Fut, T: Debug>(what: &str, probe: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<(), T>>,
{
    let mut last = None;
    for _ in 0..400 {
        match probe().await {
            Ok(()) => return,
            Err(state) => last = Some(state),
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{what}: {last:#?}");
}

fn check<T>(ok: bool, state: T) -> Result<(), T> {
    if ok { Ok(()) } else { Err(state) }
}

/// Brings bound pods up; pods of the image `task` succeed; deleted pods go.
async fn kubelet(client: Client, shutdown: CancellationToken) {
    let informers = Informers::new(client.clone(), shutdown.clone());
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel::<Arc<Pod>>();
    informers.of::<Pod>().on_event(move |event| {
        if let knarr_client::Event::Applied { new, .. } = event {
            let _ended = sender.send(new.clone());
        }
    });
    while let Some(pod) = receiver.recv().await {
        let (namespace, name) = (pod.namespace().unwrap(), pod.name_any());
        let spec = pod.spec.clone().unwrap();
        let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        if spec.node_name.is_none() {
            continue;
        }
        if pod.metadata.deletion_timestamp.is_some() {
            let _gone = api.delete(&name, &DeleteParams::default().grace_period(0)).await;
            continue;
        }
        let phase = pod.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default();
        let task = spec.containers[0].image.as_deref() == Some("task");
        let next = match phase.as_str() {
            "" | "Pending" => "Running",
            "Running" if task => "Succeeded",
            _ => continue,
        };
        let ready = if next == "Running" { "True" } else { "False" };
        let status = json!({"status": {"phase": next, "podIP": "10.42.0.9", "podIPs": [{"ip": "10.42.0.9"}], "conditions": [
            {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        let _gone = api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status)).await;
    }
}

fn deployment(image: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [
                {"name": "c", "image": image, "resources": {"requests": {"cpu": "100m"}}}]}},
        },
    })
}

async fn available(cluster: &Cluster, replicas: i32) {
    until("deployment complete", || async {
        let d = cluster.api::<Deployment>().get("web").await.unwrap();
        let s = d.status.clone().unwrap_or_default();
        let done = s.available_replicas == Some(replicas)
            && s.updated_replicas == Some(replicas)
            && s.replicas == Some(replicas)
            && s.observed_generation == d.metadata.generation
            && s.conditions.iter().flatten().any(|c| c.reason.as_deref() == Some("NewReplicaSetAvailable"));
        check(done, s)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_lives_and_dies() {
    let cluster = Cluster::start().await;
    cluster.make::<Deployment>(deployment("one", 3)).await;
    cluster
        .make::<Service>(json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "10.43.0.5", "clusterIPs": ["10.43.0.5"], "ipFamilies": ["IPv4"], "type": "ClusterIP", "selector": {"app": "web"}, "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}]}}))
        .await;
    available(&cluster, 3).await;
    let pods = cluster.list::<Pod>().await;
    assert!(pods.iter().all(|p| p.spec.as_ref().unwrap().node_name.as_deref() == Some("node-1")));
    until("three endpoints", || async {
        let slices = cluster.list::<EndpointSlice>().await;
        let ready = slices.iter().flat_map(|s| s.endpoints.iter().flatten()).count();
        check(ready == 3 && slices.len() == 1, slices)
    })
    .await;

    let patch = Patch::Merge(
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}}),
    );
    cluster.api::<Deployment>().patch("web", &PatchParams::default(), &patch).await.unwrap();
    available(&cluster, 3).await;
    let sets = cluster.list::<ReplicaSet>().await;
    let mut sizes: Vec<_> = sets
        .iter()
        .map(|s| {
            (
                s.metadata.annotations.clone().unwrap()["deployment.kubernetes.io/revision"].clone(),
                s.spec.replicas,
            )
        })
        .collect();
    sizes.sort();
    assert_eq!(sizes, [("1".to_owned(), Some(0)), ("2".to_owned(), Some(3))]);
    until("old pods are gone", || async {
        let pods = cluster.list::<Pod>().await;
        check(pods.len() == 3, pods.len())
    })
    .await;
    let patch = Patch::Merge(json!({"spec": {"replicas": 1}}));
    cluster.api::<Deployment>().patch("web", &PatchParams::default(), &patch).await.unwrap();
    available(&cluster, 1).await;

    let events = cluster.events().await;
    for reason in [
        "ScalingReplicaSet: Scaled up",
        "SuccessfulCreate: Created pod: web-",
        "Scheduled: Successfully assigned demo/web-",
        "SuccessfulDelete: Deleted pod",
    ] {
        assert!(events.iter().any(|e| e.starts_with(reason)), "{reason} is missing in {events:#?}");
    }

    cluster.api::<Deployment>().delete("web", &DeleteParams::background()).await.unwrap();
    until("garbage is collected", || async {
        let left = (cluster.list::<ReplicaSet>().await.len(), cluster.list::<Pod>().await.len());
        check(left == (0, 0), left)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreground_deletion_and_orphans() {
    let cluster = Cluster::start().await;
    cluster.make::<Deployment>(deployment("one", 2)).await;
    available(&cluster, 2).await;
    cluster.api::<Deployment>().delete("web", &DeleteParams::orphan()).await.unwrap();
    until("the set is an orphan", || async {
        let sets = cluster.list::<ReplicaSet>().await;
        let gone = cluster.api::<Deployment>().get_opt("web").await.unwrap().is_none();
        let free = sets.len() == 1 && sets[0].metadata.owner_references.as_ref().is_none_or(Vec::is_empty);
        check(gone && free, sets)
    })
    .await;
    // A new deployment adopts it.
    cluster.make::<Deployment>(deployment("one", 2)).await;
    available(&cluster, 2).await;
    assert_eq!(cluster.list::<ReplicaSet>().await.len(), 1);
    cluster.api::<Deployment>().delete("web", &DeleteParams::foreground()).await.unwrap();
    until("all is gone", || async {
        let left = (
            cluster.list::<Deployment>().await.len(),
            cluster.list::<ReplicaSet>().await.len(),
            cluster.list::<Pod>().await.len(),
        );
        check(left == (0, 0, 0), left)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_completes() {
    let cluster = Cluster::start().await;
    for (name, mode) in [("plain", "NonIndexed"), ("indexed", "Indexed")] {
        let labels = json!({"batch.kubernetes.io/job-name": name});
        cluster
            .make::<Job>(json!({"metadata": {"name": name}, "spec": {
                "completions": 3, "parallelism": 2, "backoffLimit": 6, "completionMode": mode,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "task"}]}},
            }}))
            .await;
        until(name, || async {
            let job = cluster.api::<Job>().get(name).await.unwrap();
            let s = job.status.clone().unwrap_or_default();
            let complete = s.conditions.iter().flatten().any(|c| c.type_ == "Complete" && c.status == "True");
            check(complete && s.succeeded == Some(3) && s.completion_time.is_some(), s)
        })
        .await;
    }
    let pods = cluster.list::<Pod>().await;
    assert_eq!(pods.len(), 6, "no pod was run twice");
    assert!(pods.iter().all(|p| p.metadata.finalizers.as_ref().is_none_or(Vec::is_empty)));
    let indexed = cluster.api::<Job>().get("indexed").await.unwrap();
    assert_eq!(indexed.status.unwrap().completed_indexes.as_deref(), Some("0-2"));
    // Told when to go, a finished job goes with its pods.
    let ttl = json!({"spec": {"ttlSecondsAfterFinished": 0}});
    cluster.api::<Job>().patch("indexed", &PatchParams::default(), &Patch::Merge(ttl)).await.unwrap();
    until("the job and its pods go, the other stays", || async {
        let (jobs, pods) = (cluster.list::<Job>().await, cluster.list::<Pod>().await);
        check(jobs.len() == 1 && jobs[0].name_any() == "plain" && pods.len() == 3, (jobs, pods))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_furnished_and_emptied() {
    let cluster = Cluster::start().await;
    until("furnished", || async {
        let account = cluster.api::<ServiceAccount>().get_opt("default").await.unwrap();
        let map = cluster.api::<ConfigMap>().get_opt("kube-root-ca.crt").await.unwrap();
        let ca = map.as_ref().and_then(|m| m.data.as_ref()).and_then(|d| d.get("ca.crt")).cloned();
        check(account.is_some() && ca.as_deref() == Some("CA"), ca)
    })
    .await;
    let node = Api::<Node>::all(cluster.admin.clone()).get("node-1").await.unwrap();
    assert_eq!(node.spec.unwrap().pod_cidr.as_deref(), Some("10.42.0.0/24"));
    cluster.make::<Deployment>(deployment("one", 2)).await;
    available(&cluster, 2).await;
    Api::<Namespace>::all(cluster.admin.clone()).delete("demo", &DeleteParams::default()).await.unwrap();
    until("the namespace is gone", || async {
        let left = Api::<Namespace>::all(cluster.admin.clone()).get_opt("demo").await.unwrap();
        check(left.is_none(), left)
    })
    .await;
    assert!(cluster.list::<Pod>().await.is_empty() && cluster.list::<ConfigMap>().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stateful_and_daemon_pods_roll() {
    let cluster = Cluster::start().await;
    cluster.node("node-2").await;
    let template = |app: &str, image: &str| json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": image}]}});
    cluster
        .make::<StatefulSet>(json!({"metadata": {"name": "db"}, "spec": {"replicas": 2, "serviceName": "db",
            "selector": {"matchLabels": {"app": "db"}}, "template": template("db", "one")}}))
        .await;
    cluster
        .make::<DaemonSet>(json!({"metadata": {"name": "log"}, "spec": {
            "selector": {"matchLabels": {"app": "log"}}, "template": template("log", "one")}}))
        .await;
    for image in ["one", "two"] {
        let patch = Patch::Merge(json!({"spec": {"template": template("db", image)}}));
        cluster.api::<StatefulSet>().patch("db", &PatchParams::default(), &patch).await.unwrap();
        let patch = Patch::Merge(json!({"spec": {"template": template("log", image)}}));
        cluster.api::<DaemonSet>().patch("log", &PatchParams::default(), &patch).await.unwrap();
        until(image, || async {
            let pods = cluster.list::<Pod>().await;
            let mut seen: Vec<_> = pods
                .iter()
                .map(|p| {
                    let spec = p.spec.clone().unwrap();
                    let app = p.labels()["app"].clone();
                    let place = if app == "db" { p.name_any() } else { spec.node_name.unwrap_or_default() };
                    (app, place, spec.containers[0].image.clone().unwrap())
                })
                .collect();
            seen.sort();
            let entry = |app: &str, place: &str| (app.to_owned(), place.to_owned(), image.to_owned());
            let wanted =
                [entry("db", "db-0"), entry("db", "db-1"), entry("log", "node-1"), entry("log", "node-2")];
            let s = cluster.api::<StatefulSet>().get("db").await.unwrap().status.unwrap_or_default();
            let d = cluster.api::<DaemonSet>().get("log").await.unwrap().status.unwrap_or_default();
            let told = s.ready_replicas == Some(2)
                && s.current_revision == s.update_revision
                && d.number_available == Some(2);
            check(seen == wanted && told, (seen, s, d))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_endpoints_and_lost_nodes() {
    let cluster = Cluster::start().await;
    cluster
        .make::<ResourceQuota>(json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "5", "configmaps": "9", "requests.cpu": "2"}}}))
        .await;
    cluster
        .make::<Service>(json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "10.43.0.6", "ipFamilies": ["IPv4"], "type": "ClusterIP", "selector": {"app": "web"}, "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}]}}))
        .await;
    let mut impatient = deployment("one", 2);
    impatient["spec"]["template"]["spec"]["tolerations"] = json!([
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}]);
    cluster.make::<Deployment>(impatient).await;
    available(&cluster, 2).await;
    until("quota", || async {
        let used = cluster
            .api::<ResourceQuota>()
            .get("q")
            .await
            .unwrap()
            .status
            .and_then(|s| s.used)
            .unwrap_or_default();
        let of = |k: &str| used.get(k).map(|q| q.0.clone());
        check(
            of("pods").as_deref() == Some("2")
                && of("configmaps").as_deref() == Some("1")
                && of("requests.cpu").as_deref() == Some("200m"),
            used,
        )
    })
    .await;
    until("endpoints", || async {
        let object = cluster.api::<Endpoints>().get_opt("web").await.unwrap();
        let count = object
            .iter()
            .flat_map(|e| e.subsets.iter().flatten())
            .flat_map(|s| s.addresses.iter().flatten())
            .count();
        check(count == 2, object)
    })
    .await;
    // The node says that it is not ready: it is tainted, and its pods are not ready either.
    let status = json!({"status": {"conditions": [{"type": "Ready", "status": "False", "lastHeartbeatTime": "2026-01-01T00:00:01Z"}]}});
    let nodes = Api::<Node>::all(cluster.admin.clone());
    nodes.patch_status("node-1", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    until("taints", || async {
        let taints = nodes.get("node-1").await.unwrap().spec.unwrap_or_default().taints.unwrap_or_default();
        let not_ready = taints.iter().filter(|t| t.key == "node.kubernetes.io/not-ready").count();
        check(not_ready == 2, taints)
    })
    .await;
    // The pods tolerate that for a second, then they must go; nothing else takes them.
    until("pods are evicted and cannot be placed", || async {
        let pods = cluster.list::<Pod>().await;
        let waiting = pods.iter().filter(|p| {
            let conditions = p.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
            conditions.iter().any(|c| {
                c.message.as_deref() == Some("0/1 nodes are available: 1 node(s) had untolerated taint(s). preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.")
            })
        });
        check(pods.len() == 2 && waiting.count() == 2, pods)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settled_cluster_writes_nothing() {
    let cluster = Cluster::start().await;
    cluster
        .make::<PodDisruptionBudget>(json!({"metadata": {"name": "b"}, "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}}))
        .await;
    cluster
        .make::<ResourceQuota>(
            json!({"metadata": {"name": "q"}, "spec": {"hard": {"count/deployments.apps": "5"}}}),
        )
        .await;
    cluster.make::<Deployment>(deployment("one", 2)).await;
    available(&cluster, 2).await;
    let template = |app: &str| json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    cluster
        .make::<StatefulSet>(json!({"metadata": {"name": "db"}, "spec": {"replicas": 1, "serviceName": "db",
            "selector": {"matchLabels": {"app": "db"}}, "template": template("db")}}))
        .await;
    cluster
        .make::<DaemonSet>(json!({"metadata": {"name": "log"}, "spec": {
            "selector": {"matchLabels": {"app": "log"}}, "template": template("log")}}))
        .await;
    cluster
        .make::<CronJob>(json!({"metadata": {"name": "tick"}, "spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "task"}]}}}}}}))
        .await;
    until("budget and quota", || async {
        let allowed = cluster
            .api::<PodDisruptionBudget>()
            .get("b")
            .await
            .unwrap()
            .status
            .and_then(|s| s.disruptions_allowed);
        let used = cluster
            .api::<ResourceQuota>()
            .get("q")
            .await
            .unwrap()
            .status
            .and_then(|s| s.used)
            .unwrap_or_default();
        let count = used.get("count/deployments.apps").map(|q| q.0.clone());
        check(allowed == Some(1) && count.as_deref() == Some("1"), (allowed, count))
    })
    .await;
    let newest = || async {
        cluster.api::<ConfigMap>().list(&ListParams::default()).await.unwrap().metadata.resource_version
    };
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = newest().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(before, newest().await, "something writes though nothing changes");
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_resources_are_collected_like_others() {
    let cluster = Cluster::start().await;
    let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "foos.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "foos", "kind": "Foo"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
    cluster.server.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &crd).await.expect(201);
    let foos = "/apis/example.com/v1/namespaces/demo/foos";
    until("foos are served", || async {
        let status = cluster.server.get(foos).await.status;
        check(status == 200, status)
    })
    .await;
    let foo = |name: &str| json!({"apiVersion": "example.com/v1", "kind": "Foo", "metadata": {"name": name}});
    let owner = cluster.server.post(foos, &foo("owner")).await.expect(201);
    // A custom resource owns a built-in object and another custom resource.
    let owned = json!([{"apiVersion": "example.com/v1", "kind": "Foo", "name": "owner",
        "uid": owner["metadata"]["uid"]}]);
    let mut child = foo("child");
    child["metadata"]["ownerReferences"] = owned.clone();
    cluster.server.post(foos, &child).await.expect(201);
    cluster.make::<ConfigMap>(json!({"metadata": {"name": "child", "ownerReferences": owned}})).await;
    cluster.server.delete(&format!("{foos}/owner")).await.expect(200);
    until("what it owned is collected", || async {
        let foo = cluster.server.get(&format!("{foos}/child")).await.status;
        let map = cluster.server.get("/api/v1/namespaces/demo/configmaps/child").await.status;
        check((foo, map) == (404, 404), (foo, map))
    })
    .await;
    cluster.server.post(foos, &foo("left")).await.expect(201);
    cluster.server.delete("/api/v1/namespaces/demo").await.expect(200);
    until("the namespace goes with its custom resources", || async {
        let reply = cluster.server.get("/api/v1/namespaces/demo").await;
        check(reply.status == 404, reply.text())
    })
    .await;
    assert_eq!(cluster.server.get("/apis/example.com/v1/foos").await.expect(200)["items"], json!([]));
    // RBAC judges requests for custom resources by group and resource.
    let nobody = Some(UserInfo::component("nobody", &["system:authenticated"]));
    let refused = cluster.server.raw_as(nobody, "GET", foos, &[], "").await;
    assert_eq!(refused.status, 403);
    assert!(
        refused.text().contains("cannot list resource \\\"foos\\\" in API group \\\"example.com\\\""),
        "{}",
        refused.text()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_without_a_selector_are_mirrored() {
    let cluster = Cluster::start().await;
    let ports = json!([{"port": 80, "protocol": "TCP"}]);
    let spec =
        json!({"clusterIP": "10.43.0.6", "clusterIPs": ["10.43.0.6"], "type": "ClusterIP", "ports": ports});
    cluster.make::<Service>(json!({"metadata": {"name": "db"}, "spec": spec})).await;
    let subsets = |ip: &str, port: i32| json!([{"addresses": [{"ip": ip}], "ports": [{"port": port, "protocol": "TCP"}]}]);
    cluster.make::<Endpoints>(json!({"metadata": {"name": "db"}, "subsets": subsets("10.1.2.3", 80)})).await;
    let shows = |ip: &'static str, port: i32| {
        let cluster = &cluster;
        async move {
            let slices = cluster.list::<EndpointSlice>().await;
            let fits = slices.len() == 1
                && slices[0].endpoints.iter().flatten().all(|e| e.addresses == [ip])
                && slices[0].ports.iter().flatten().all(|p| p.port == Some(port));
            check(fits, slices)
        }
    };
    until("a mirrored slice", || shows("10.1.2.3", 80)).await;
    let name = cluster.list::<EndpointSlice>().await[0].name_any();
    let patch = Patch::Merge(json!({"subsets": subsets("10.2.3.4", 9090)}));
    cluster.api::<Endpoints>().patch("db", &PatchParams::default(), &patch).await.unwrap();
    until("the slice follows", || shows("10.2.3.4", 9090)).await;
    assert_eq!(cluster.list::<EndpointSlice>().await[0].name_any(), name, "the slice is used again");
    cluster.api::<Endpoints>().delete("db", &DeleteParams::default()).await.unwrap();
    until("no slice is left", || async {
        let left = cluster.list::<EndpointSlice>().await;
        check(left.is_empty(), left)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_objects_stay_while_they_are_used() {
    let cluster = Cluster::start().await;
    let all = || Api::<VolumeAttributesClass>::all(cluster.admin.clone());
    let class =
        json!({"metadata": {"name": "gold"}, "driverName": "d.example.com", "parameters": {"iops": "1"}});
    all().create(&PostParams::default(), &serde_json::from_value(class).unwrap()).await.unwrap();
    let claim = json!({"metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
        "storageClassName": "", "volumeAttributesClassName": "gold",
    }});
    let made: PersistentVolumeClaim = cluster.make(claim).await;
    assert_eq!(made.metadata.finalizers.unwrap(), ["kubernetes.io/pvc-protection"]);
    // A pod with a node uses it, whether it runs or not.
    let pod = json!({"metadata": {"name": "user"}, "spec": {
        "nodeName": "node-1", "containers": [{"name": "c", "image": "one"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}],
    }});
    cluster.make::<Pod>(pod).await;
    let claims = cluster.api::<PersistentVolumeClaim>();
    claims.delete("data", &DeleteParams::default()).await.unwrap();
    all().delete("gold", &DeleteParams::default()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(claims.get("data").await.unwrap().metadata.deletion_timestamp.is_some());
    assert!(all().get("gold").await.unwrap().metadata.deletion_timestamp.is_some());
    cluster.api::<Pod>().delete("user", &DeleteParams::default()).await.unwrap();
    until("the claim goes, then its class", || async {
        let left = (claims.get_opt("data").await.unwrap(), all().get_opt("gold").await.unwrap());
        check(left.0.is_none() && left.1.is_none(), left)
    })
    .await;

    let volumes = Api::<PersistentVolume>::all(cluster.admin.clone());
    let volume = json!({"metadata": {"name": "disk"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/x"},
    }});
    let made =
        volumes.create(&PostParams::default(), &serde_json::from_value(volume).unwrap()).await.unwrap();
    assert_eq!(made.metadata.finalizers.unwrap(), ["kubernetes.io/pv-protection"]);
    volumes.delete("disk", &DeleteParams::default()).await.unwrap();
    until("the volume goes", || async {
        let left = volumes.get_opt("disk").await.unwrap();
        check(left.is_none(), left)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_nobody_deletes_are_collected() {
    let cluster = Cluster::start_with(Config {
        terminated_pod_threshold: 2,
        missing_node_grace: Duration::from_millis(200),
        ..Config::default()
    })
    .await;
    let pod = |name: &str, node: &str, image: &str| {
        json!({"metadata": {"name": name}, "spec": {
            "nodeName": node, "restartPolicy": "Never", "containers": [{"name": "c", "image": image}]}})
    };
    // Of those that are done the newest two are kept; made in the same second, those later in the alphabet.
    for name in ["a", "b", "c", "d"] {
        cluster.make::<Pod>(pod(name, "node-1", "task")).await;
    }
    until("the oldest of the terminated pods go", || async {
        let names: Vec<String> = cluster.list::<Pod>().await.iter().map(ResourceExt::name_any).collect();
        check(names == ["c", "d"], names)
    })
    .await;
    // A pod of a node that is not there has failed, and goes when its finalizer lets it.
    let mut lost = pod("lost", "gone", "web");
    lost["metadata"]["finalizers"] = json!(["demo.example.com/look"]);
    cluster.make::<Pod>(lost).await;
    until("the pod of a missing node has failed and is deleted", || async {
        let pod = cluster.api::<Pod>().get("lost").await.unwrap();
        let status = pod.status.clone().unwrap_or_default();
        let told = status.conditions.iter().flatten().any(|c| {
            c.type_ == "DisruptionTarget"
                && c.reason.as_deref() == Some("DeletionByPodGC")
                && c.status == "True"
        });
        let failed = status.phase.as_deref() == Some("Failed");
        check(told && failed && pod.metadata.deletion_timestamp.is_some(), pod)
    })
    .await;
    let free = json!({"metadata": {"finalizers": null}});
    cluster.api::<Pod>().patch("lost", &PatchParams::default(), &Patch::Merge(free)).await.unwrap();
    until("it goes", || async {
        let lost = cluster.api::<Pod>().get_opt("lost").await.unwrap();
        check(lost.is_none(), lost)
    })
    .await;
}
