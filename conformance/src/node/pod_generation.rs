//! Upstream: `test/e2e/node/pods.go`, Pod Generation.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Result;
use crate::api::number;
use crate::context::{Context, POD_START};
use crate::images::{AGNHOST, BUSYBOX, NGINX, PAUSE};
use crate::pods::{container, pod};

tests! {
    "[sig-node] Pods Extended (pod generation) Pod Generation pod generation should start at 1 and increment per update [MinimumKubeletVersion:1.34]" => increments,
    "[sig-node] Pods Extended (pod generation) Pod Generation custom-set generation on new pods and graceful delete" => custom,
    "[sig-node] Pods Extended (pod generation) Pod Generation issue 500 podspec updates and verify generation and observedGeneration eventually converge [MinimumKubeletVersion:1.34]" => converges,
}

fn generation(pod: &Value) -> i64 {
    number(pod, "/metadata/generation")
}

type Step = (&'static str, fn(&mut Value), bool);

const STEPS: &[Step] = &[
    ("an empty update", |_| {}, false),
    (
        "new tolerations",
        |p| {
            let toleration = json!({"key": format!("foo-{}", crate::context::random(8)), "operator": "Equal", "value": "bar", "effect": "NoSchedule"});
            if let Some(list) = p["spec"]["tolerations"].as_array_mut() {
                list.push(toleration);
            } else {
                p["spec"]["tolerations"] = json!([toleration]);
            }
        },
        true,
    ),
    ("activeDeadlineSeconds", |p| p["spec"]["activeDeadlineSeconds"] = json!(5000), true),
    ("the container's image", |p| p["spec"]["containers"][0]["image"] = json!(NGINX), true),
    ("the init container's image", |p| p["spec"]["initContainers"][0]["image"] = json!(PAUSE), true),
    ("metadata", |p| p["metadata"]["annotations"] = json!({"key": "value"}), false),
    ("a generation of the client", |p| p["metadata"]["generation"] = json!(1), false),
];

async fn observed(c: &Context, name: &str, wanted: i64) -> Result<()> {
    let what = format!("status.observedGeneration {wanted}");
    c.pods()
        .wait(name, Duration::from_secs(120), &what, |p| {
            Ok(p.is_some_and(|p| number(p, "/status/observedGeneration") == wanted))
        })
        .await
        .map(|_| ())
}

async fn increments(c: Context) -> Result<()> {
    let name = c.unique("pod-generation");
    let mut pod = pod(&name, json!([container("agnhost-container", AGNHOST, &["pause"])]));
    pod["spec"]["restartPolicy"] = json!("Always");
    pod["spec"]["initContainers"] = json!([{"name": "init-container", "image": BUSYBOX}]);
    let made = c.start(&pod).await?;
    ensure_eq!(generation(&made), 1, "generation of a new pod");
    observed(&c, &name, 1).await?;
    let mut wanted = 1;
    for (what, change, bumps) in STEPS {
        c.pods().modify(&name, change).await?;
        wanted += i64::from(*bumps);
        ensure_eq!(generation(&c.pods().get(&name).await?), wanted, "generation after {what}");
        observed(&c, &name, wanted).await?;
    }
    Ok(())
}

async fn custom(c: Context) -> Result<()> {
    let name = c.unique("pod-generation");
    let mut pod = pod(&name, json!([container("agnhost-container", AGNHOST, &["pause"])]));
    pod["metadata"]["generation"] = json!(100);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(60);
    let made = c.start(&pod).await?;
    ensure_eq!(generation(&made), 1, "generation of a new pod whose client set 100");
    // The API counts the deletion before the kubelet can have removed the pod.
    c.pods()
        .patch(&name, crate::api::Patch::Merge(json!({"metadata": {"finalizers": ["example.com/hold"]}})))
        .await?;
    c.pods().delete_with(&name, json!({"gracePeriodSeconds": 60})).await?;
    ensure_eq!(generation(&c.pods().get(&name).await?), 2, "generation after a graceful deletion");
    c.pods().patch(&name, crate::api::Patch::Merge(json!({"metadata": {"finalizers": null}}))).await?;
    c.pods().wait_gone(&name, POD_START).await
}

async fn converges(c: Context) -> Result<()> {
    let name = c.unique("pod-generation");
    let mut pod = pod(&name, json!([container("agnhost-container", AGNHOST, &["pause"])]));
    pod["spec"]["activeDeadlineSeconds"] = json!(50_000);
    let made = c.start(&pod).await?;
    ensure_eq!(generation(&made), 1, "generation of a new pod");
    for n in 1..=500 {
        let seconds = 50_000 - n;
        let updated = c.pods().modify(&name, |p| p["spec"]["activeDeadlineSeconds"] = json!(seconds)).await?;
        ensure_eq!(generation(&updated), n + 1, "generation after update {n}");
    }
    observed(&c, &name, 501).await?;
    let seen = c.pods().get(&name).await?;
    ensure_eq!(generation(&seen), 501, "generation at the end");
    for condition in crate::api::array(&seen, "/status/conditions") {
        let of = condition["observedGeneration"].as_i64().unwrap_or(0);
        anyhow::ensure!((1..=501).contains(&of), "observedGeneration of condition {condition}");
    }
    Ok(())
}
