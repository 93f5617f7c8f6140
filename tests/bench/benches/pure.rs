//! Pure parts, each by itself: `cargo bench --package knarr-bench`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use knarr_cel::{Binding, Program, Type};
use knarr_kinds::Kind;
use knarr_machinery::gvk::GroupVersionResource;
use knarr_machinery::labels::Selector;
use knarr_machinery::quantity::Quantity;
use knarr_machinery::{apply, patch, strategic};
use knarr_policy::PolicyConfig;
use knarr_policy::model::{self, Cluster};
use knarr_registry::codec;
use knarr_scheduler::cache::Cache;
use knarr_scheduler::cycle;
use knarr_scheduler::pod::PodInfo;
use serde_json::{Value, json};

const NOW: &str = "2026-01-01T00:00:00Z";

fn kind(group: &'static str, resource: &'static str) -> &'static Kind {
    knarr_kinds::find(&GroupVersionResource::new(group, "v1", resource)).unwrap()
}

/// A pod as the node's agent and the scheduler leave it: about 3 KB.
fn pod(name: &str) -> Value {
    let container = |c: &str| {
        json!({"name": c, "image": "registry.example/bench:1", "imagePullPolicy": "IfNotPresent",
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
            "ports": [{"name": "web", "containerPort": 80, "protocol": "TCP"}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"})
    };
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": NOW});
    let conditions = ["Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition);
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "creationTimestamp": NOW,
            "labels": {"app": "bench", "tier": "web"}, "annotations": {"note": "x".repeat(400)}},
        "spec": {"containers": [container("one"), container("two")], "volumes": [{"name": "data", "emptyDir": {}}],
            "nodeSelector": {"simulated": "yes"}, "restartPolicy": "Always", "schedulerName": "default-scheduler",
            "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst", "serviceAccountName": "default"},
        "status": {"phase": "Running", "hostIP": "10.0.0.1", "podIP": "10.42.0.7", "startTime": NOW,
            "conditions": conditions}})
}

fn documents(c: &mut Criterion) {
    let stored = codec::to_stored(&pod("p")).unwrap();
    let text = pod("p").to_string();
    let types = &kind("", "pods").info.types;
    c.bench_function("pod: parse JSON", |b| {
        b.iter(|| serde_json::from_slice::<Value>(black_box(text.as_bytes())).unwrap());
    });
    c.bench_function("pod: write JSON", |b| {
        let value = pod("p");
        b.iter(|| codec::to_bytes(black_box(&value)).unwrap());
    });
    c.bench_function("pod: splice a revision into stored bytes", |b| {
        b.iter(|| codec::splice(black_box(&stored), 123_456).unwrap());
    });
    c.bench_function("pod: JSON to protobuf, without a tree", |b| {
        b.iter(|| knarr_schema::proto::transcode_raw(types, black_box(text.as_bytes())).unwrap());
    });
    c.bench_function("pod: protobuf to a tree", |b| {
        let raw = knarr_schema::proto::encode_raw(types, &pod("p")).unwrap();
        b.iter(|| knarr_schema::proto::decode_raw(types, black_box(&raw)).unwrap());
    });
}

fn patches(c: &mut Criterion) {
    let types = &kind("", "pods").info.types;
    let change = json!({"spec": {"containers": [{"name": "one", "image": "registry.example/bench:2"}]}});
    c.bench_function("pod: merge patch", |b| {
        b.iter(|| patch::merge_patch(pod("p"), black_box(&json!({"metadata": {"labels": {"a": "b"}}}))));
    });
    c.bench_function("pod: strategic merge patch", |b| {
        b.iter(|| strategic::strategic(types, pod("p"), black_box(&change)).unwrap());
    });
    let mut applied = pod("p");
    applied["metadata"] = json!({"name": "p", "namespace": "default"});
    applied.as_object_mut().unwrap().remove("status");
    let first = apply::apply(types, "v1", None, &applied, "bench", false, None, NOW).unwrap();
    c.bench_function("pod: server-side apply over an applied one", |b| {
        b.iter(|| {
            let live = Some(black_box(&first));
            apply::apply(types, "v1", live, &applied, "bench", false, None, NOW).unwrap()
        });
    });
}

fn small(c: &mut Criterion) {
    let labels = [("app", "bench"), ("tier", "web")];
    let selector = Selector::parse("app in (bench,other),tier!=db,!gone").unwrap();
    c.bench_function("label selector: parse", |b| {
        b.iter(|| Selector::parse(black_box("app in (bench,other),tier!=db,!gone")).unwrap());
    });
    c.bench_function("label selector: match", |b| {
        b.iter(|| {
            selector.matches_fn(|key| labels.iter().find(|(k, _)| *k == black_box(key)).map(|(_, v)| *v))
        });
    });
    c.bench_function("quantity: parse and print", |b| {
        b.iter(|| Quantity::parse(black_box("1536Mi")).unwrap().to_string());
    });
    let rule = "self.size <= self.limit && self.ports.all(p, p.port > 0)";
    let object = Type::map(Type::Dyn);
    c.bench_function("CEL: compile a rule", |b| {
        b.iter(|| Program::compile(black_box(rule), vec![("self".into(), object.clone())]).unwrap());
    });
    let program = Program::compile(rule, vec![("self".into(), object.clone())]).unwrap();
    let value = json!({"size": 3, "limit": 10, "ports": [{"port": 80}, {"port": 443}]});
    c.bench_function("CEL: evaluate a rule", |b| {
        b.iter(|| program.evaluate(&[Binding::Value(black_box(&value))], 100_000).value.unwrap());
    });
}

fn scheduling(c: &mut Criterion) {
    for nodes in [100, 5_000] {
        let mut cache = Cache::default();
        for number in 0..nodes {
            let resources = json!({"cpu": "32", "memory": "128Gi", "pods": "110"});
            let node = json!({"metadata": {"name": format!("n{number}"), "labels": {"simulated": "yes"}},
                "status": {"allocatable": resources}});
            cache.set_node(Arc::new(serde_json::from_value(node).unwrap()));
        }
        let info = PodInfo::new(&serde_json::from_value(pod("p")).unwrap());
        let (snapshot, spread) = (cache.snapshot(), cache.image_spread());
        c.bench_function(&format!("scheduler: one decision over {nodes} nodes"), |b| {
            b.iter(|| {
                let over = cycle::over(black_box(&info), &snapshot, &spread, &|_| None);
                cycle::decide(&over, 0, |_| 0).map_err(|n| n.message()).unwrap().node
            });
        });
    }
}

/// A hundred namespaces of a hundred pods, of which a hundred run on node n0: one of each namespace. In each
/// namespace a policy for all pods, one for those of a tier, and one that lets other namespaces in.
fn isolation(c: &mut Criterion) {
    let mut cluster = Cluster::default();
    let policies = [
        json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}),
        json!({"podSelector": {"matchLabels": {"tier": "web"}}, "ingress": [{"ports": [{"port": "web"}]}]}),
        json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [
            {"to": [{"namespaceSelector": {"matchLabels": {"shared": "yes"}}}]}, {"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}]}),
    ];
    for namespace in 0..100u8 {
        let name = format!("ns{namespace}");
        let shared = if namespace % 20 == 0 { "yes" } else { "no" };
        cluster.namespaces.insert(name.clone(), [("shared".to_owned(), shared.to_owned())].into());
        for (i, spec) in policies.iter().enumerate() {
            let object = serde_json::from_value(json!({"spec": spec})).unwrap();
            cluster.policies.insert((name.clone(), format!("p{i}")), model::policy(&object));
        }
        for number in 0..100u8 {
            let mut object = pod(&format!("pod-{number}"));
            object["spec"]["nodeName"] = json!(format!("n{number}"));
            object["status"]["podIP"] = json!(format!("10.42.{number}.{namespace}"));
            let object = serde_json::from_value(object).unwrap();
            let facts = model::pod(&object, model::addresses(&object)).unwrap();
            cluster.pods.insert((name.clone(), format!("pod-{number}")), facts);
        }
    }
    let text = |s: &str| s.to_owned();
    let config = PolicyConfig {
        node_name: text("n0"),
        bridge: text("knarr0"),
        ports: text("kn*"),
        ledger: "ledger".into(),
    };
    let before = knarr_policy::plan(&cluster, &config);
    c.bench_function("network policies: rules of a node's 100 pods among 10,000, 300 policies", |b| {
        b.iter(|| knarr_policy::plan(black_box(&cluster), &config));
    });
    cluster.pods.remove(&("ns7".to_owned(), "pod-9".to_owned()));
    let after = knarr_policy::plan(&cluster, &config);
    c.bench_function("network policies: what to change for one pod", |b| {
        b.iter(|| {
            let ops = |family| knarr_netlink::nft::diff(before.get(family), black_box(&after[family]));
            after.keys().map(ops).map(|ops| ops.len()).sum::<usize>()
        });
    });
}

criterion_group!(pure, documents, patches, small, scheduling, isolation);
criterion_main!(pure);
