//! Upstream: `test/e2e/common/node/pod_resize.go`.

use serde_json::{Value, json};

use crate::Result;
use crate::api::{Patch, array, condition, text};
use crate::context::{Context, POD_START};
use crate::images::BUSYBOX;
use crate::pods::{container_status, pod, ready, restarts, shell};
use crate::quantity::milli;

tests! {
    "[sig-node] Pod InPlace Resize Container burstable pods - extended 6 containers - various operations performed (including adding limits and requests) [MinimumKubeletVersion:1.34]" => various,
    "[sig-node] Pod InPlace Resize Container burstable pods - extended resize with equivalents [MinimumKubeletVersion:1.34]" => equivalents,
    "[sig-node] Pod InPlace Resize Container resize pod via the replace endpoint [MinimumKubeletVersion:1.34]" => replace,
}

/// Requests and limits of CPU and memory, "" for none.
#[derive(Clone, Copy, Default)]
struct Amounts {
    cpu: &'static str,
    cpu_limit: &'static str,
    memory: &'static str,
    memory_limit: &'static str,
}

impl Amounts {
    fn resources(&self) -> Value {
        let list = |cpu: &str, memory: &str| -> Value {
            let given = [("cpu", cpu), ("memory", memory)].into_iter().filter(|(_, v)| !v.is_empty());
            given.map(|(k, v)| (k.to_string(), json!(v))).collect::<serde_json::Map<_, _>>().into()
        };
        let mut out = json!({"requests": list(self.cpu, self.memory)});
        if !self.cpu_limit.is_empty() || !self.memory_limit.is_empty() {
            out["limits"] = list(self.cpu_limit, self.memory_limit);
        }
        out
    }
}

fn name(n: usize) -> String {
    format!("c{}", n + 1)
}

fn test_pod(c: &Context, all: &[Amounts]) -> Value {
    let containers: Vec<Value> = all
        .iter()
        .enumerate()
        .map(|(n, amounts)| {
            let mut main = shell(&name(n), BUSYBOX, "trap exit TERM; while true; do sleep 1; done");
            main["resources"] = amounts.resources();
            main
        })
        .collect();
    let mut pod = pod(&c.unique("testpod"), json!(containers));
    pod["spec"]["restartPolicy"] = json!("Always");
    pod
}

fn same(seen: &Value, wanted: &Value, what: &str) -> Result<()> {
    for list in ["requests", "limits"] {
        for (key, value) in wanted[list].as_object().into_iter().flatten() {
            let at = format!("{what}: {list}.{key}");
            let seen = milli(text(&seen[list], &format!("/{key}"))).map_err(|e| e.context(at.clone()))?;
            ensure_eq!(seen, milli(value.as_str().unwrap_or(""))?, "{at}");
        }
        let count = |v: &Value| v[list].as_object().map_or(0, serde_json::Map::len);
        ensure_eq!(count(seen), count(wanted), "{what}: entries of {list}");
    }
    Ok(())
}

/// The status shows the amounts, nothing is pending, nothing was restarted.
fn resized(pod: &Value, all: &[Amounts]) -> Result<()> {
    for pending in ["PodResizePending", "PodResizeInProgress"] {
        anyhow::ensure!(condition(pod, pending).is_null(), "{pending}: {}", condition(pod, pending));
    }
    for (n, amounts) in all.iter().enumerate() {
        let status = container_status(pod, &name(n));
        let wanted = amounts.resources();
        same(&status["resources"], &wanted, &format!("status.resources of {}", name(n)))?;
        let allocated = json!({"requests": status["allocatedResources"]});
        same(
            &allocated,
            &json!({"requests": wanted["requests"]}),
            &format!("allocatedResources of {}", name(n)),
        )?;
    }
    ensure_eq!(restarts(pod), 0, "restarts");
    anyhow::ensure!(ready(pod), "the pod is not ready");
    Ok(())
}

async fn verify(c: &Context, pod: &str, all: &[Amounts]) -> Result<()> {
    let mut last = None;
    let waited = c
        .pods()
        .wait(pod, POD_START, "the resize must be done", |p| {
            let Some(p) = p else { return Ok(false) };
            last = resized(p, all).err();
            Ok(last.is_none())
        })
        .await;
    if let Err(e) = waited {
        return Err(last.map_or(e, |l| l.context("the resize must be done")));
    }
    let seen = c.pods().get(pod).await?;
    for (n, (amounts, container)) in all.iter().zip(array(&seen, "/spec/containers")).enumerate() {
        same(&container["resources"], &amounts.resources(), &format!("spec of {}", name(n)))?;
        cgroup(c, pod, &name(n), amounts)
            .await
            .map_err(|e| e.context(format!("control group of {}", name(n))))?;
    }
    Ok(())
}

/// What the kernel enforces, as the container sees it, in either version of control groups.
async fn cgroup(c: &Context, pod: &str, container: &str, amounts: &Amounts) -> Result<()> {
    let root = "/sys/fs/cgroup";
    let v2 = c.exec(pod, container, &["test", "-f", "/sys/fs/cgroup/cgroup.controllers"]).await?.code == 0;
    let read = |file: &'static str| async move {
        let path = format!("{root}/{file}");
        c.exec_ok(pod, container, &["cat", &path]).await
    };
    // Without a request the limit stands in for it, and there is a least share.
    let request = if amounts.cpu.is_empty() { amounts.cpu_limit } else { amounts.cpu };
    let shares = (milli(if request.is_empty() { "0" } else { request })? * 1024 / 1000).max(2);
    if v2 {
        let weight: i128 = read("cpu.weight").await?.parse()?;
        let linear = 1 + (shares - 2) * 9999 / 262_142;
        // Newer runtimes use a curve through the same ends that gives small shares more weight.
        anyhow::ensure!(
            weight >= linear,
            "cpu.weight {weight} for {shares} shares, at least {linear} is wanted"
        );
    } else {
        ensure_eq!(read("cpu/cpu.shares").await?, shares.to_string(), "cpu.shares");
    }
    if !amounts.cpu_limit.is_empty() {
        let quota = (milli(amounts.cpu_limit)? * 100).max(1000);
        if v2 {
            ensure_eq!(read("cpu.max").await?, format!("{quota} 100000"), "cpu.max");
        } else {
            ensure_eq!(read("cpu/cpu.cfs_quota_us").await?, quota.to_string(), "cpu.cfs_quota_us");
        }
    }
    if !amounts.memory_limit.is_empty() {
        let bytes = (milli(amounts.memory_limit)? / 1000).to_string();
        let file = if v2 { "memory.max" } else { "memory/memory.limit_in_bytes" };
        ensure_eq!(read(file).await?, bytes, "{file}");
    }
    Ok(())
}

async fn resize(c: &Context, pod: &str, all: &[Amounts]) -> Result<()> {
    let containers: Vec<Value> =
        all.iter().enumerate().map(|(n, a)| json!({"name": name(n), "resources": a.resources()})).collect();
    let patch = json!({"spec": {"containers": containers}});
    let patched = c.pods().patch(&format!("{pod}/resize"), Patch::Strategic(patch)).await?;
    for (n, (amounts, container)) in all.iter().zip(array(&patched, "/spec/containers")).enumerate() {
        same(
            &container["resources"],
            &amounts.resources(),
            &format!("spec of {} in the patch's answer", name(n)),
        )?;
    }
    Ok(())
}

async fn various(c: Context) -> Result<()> {
    let none = Amounts::default();
    let before = [
        Amounts { cpu: "20m", ..none },
        Amounts { memory: "20Mi", ..none },
        Amounts { cpu: "20m", memory: "20Mi", ..none },
        Amounts { cpu: "20m", ..none },
        Amounts { memory: "20Mi", ..none },
        Amounts { cpu: "20m", cpu_limit: "30m", memory: "20Mi", memory_limit: "30Mi" },
    ];
    let after = [
        Amounts { cpu: "25m", cpu_limit: "35m", ..none },
        Amounts { memory: "15Mi", memory_limit: "35Mi", ..none },
        Amounts { cpu: "20m", memory: "15Mi", ..none },
        Amounts { cpu: "15m", memory: "20Mi", ..none },
        Amounts { cpu: "20m", memory: "25Mi", ..none },
        Amounts { cpu: "25m", cpu_limit: "35m", memory: "25Mi", memory_limit: "35Mi" },
    ];
    let pod = test_pod(&c, &before);
    let name = text(&pod, "/metadata/name").to_string();
    c.start(&pod).await?;
    verify(&c, &name, &before).await?;
    resize(&c, &name, &after).await?;
    verify(&c, &name, &after).await
}

async fn equivalents(c: Context) -> Result<()> {
    let none = Amounts::default();
    let before = [Amounts { cpu: "2m", cpu_limit: "10m", ..none }];
    let after = [Amounts { cpu: "1m", cpu_limit: "5m", ..none }];
    let pod = test_pod(&c, &before);
    let name = text(&pod, "/metadata/name").to_string();
    c.start(&pod).await?;
    verify(&c, &name, &before).await?;
    resize(&c, &name, &after).await?;
    verify(&c, &name, &after).await?;
    resize(&c, &name, &before).await?;
    verify(&c, &name, &before).await
}

async fn replace(c: Context) -> Result<()> {
    let before = [Amounts { cpu: "20m", cpu_limit: "30m", memory: "20Mi", memory_limit: "30Mi" }];
    let after = [Amounts { cpu: "25m", cpu_limit: "35m", memory: "25Mi", memory_limit: "35Mi" }];
    let pod = test_pod(&c, &before);
    let name = text(&pod, "/metadata/name").to_string();
    c.start(&pod).await?;
    verify(&c, &name, &before).await?;
    let seen = c.pods().get(&format!("{name}/resize")).await?;
    ensure_eq!(seen["spec"], c.pods().get(&name).await?["spec"], "spec read through the subresource");
    c.pods()
        .modify_at(&name, "resize", |p| p["spec"]["containers"][0]["resources"] = after[0].resources())
        .await?;
    verify(&c, &name, &after).await
}
