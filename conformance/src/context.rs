//! What a test is given: namespaces of its own, clients, and cleanup of what it registers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::Result;
use crate::api::{Api, Kind, array, name_of, text};
use crate::kinds::{CONFIG_MAPS, EVENTS, NAMESPACES, NODES, PODS, SERVICE_ACCOUNTS};
use crate::rest::{Rest, is_code};

/// Long enough for a pod to start on a busy node (upstream's figure).
pub const POD_START: Duration = Duration::from_secs(300);
/// Long enough for a pod to go (upstream's figure).
pub const POD_GONE: Duration = Duration::from_secs(300);

/// Settings of a run, the same for all tests.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Identity of this run, on its namespaces.
    pub run_id: String,
    /// Path of the kubeconfig, for programs that are given it.
    pub kubeconfig: String,
    /// The kubectl program.
    pub kubectl: String,
    /// The cluster's DNS domain.
    pub dns_domain: String,
}

struct Inner {
    rest: Rest,
    settings: Settings,
    base: String,
    namespace: String,
    namespaces: Mutex<Vec<String>>,
    objects: Mutex<Vec<(Api, String)>>,
}

/// The world of one test; clones share it.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

/// Random lower-case letters and digits.
pub fn random(length: usize) -> String {
    const CHARS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..length).map(|_| char::from(CHARS[rand::random_range(0..CHARS.len())])).collect()
}

impl Context {
    /// A world with a fresh namespace `<base>-<random>`.
    pub async fn new(rest: Rest, settings: Settings, base: &str) -> Result<Self> {
        let namespace = format!("{base}-{}", random(6));
        let inner = Inner {
            rest,
            settings,
            base: base.to_string(),
            namespace: namespace.clone(),
            namespaces: Mutex::default(),
            objects: Mutex::default(),
        };
        let context = Self(Arc::new(inner));
        context.make_namespace(&namespace, "privileged").await?;
        Ok(context)
    }

    /// The client.
    pub fn rest(&self) -> &Rest {
        &self.0.rest
    }

    /// The settings of the run.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// The test's own namespace.
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// A kind in the test's namespace, or cluster-wide if it has none.
    pub fn api(&self, kind: &Kind) -> Api {
        let namespace = kind.namespaced.then(|| self.0.namespace.clone());
        Api { rest: self.0.rest.clone(), kind: kind.clone(), namespace }
    }

    /// A kind in another namespace.
    pub fn api_in(&self, kind: &Kind, namespace: &str) -> Api {
        Api { rest: self.0.rest.clone(), kind: kind.clone(), namespace: Some(namespace.to_string()) }
    }

    /// A kind over all namespaces.
    pub fn api_all(&self, kind: &Kind) -> Api {
        Api { rest: self.0.rest.clone(), kind: kind.clone(), namespace: None }
    }

    /// A name nobody else has: `<base>-<random>`.
    pub fn unique(&self, base: &str) -> String {
        format!("{base}-{}", random(6))
    }

    /// A further namespace of this test.
    pub async fn new_namespace(&self, suffix: &str) -> Result<String> {
        let name = format!("{}-{suffix}-{}", self.0.base, random(6));
        self.make_namespace(&name, "privileged").await?;
        Ok(name)
    }

    /// Removes an object when the test ends, whatever its outcome; it may be gone by then.
    pub fn cleanup(&self, api: &Api, name: &str) {
        let mut objects = self.0.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.push((api.clone(), name.to_string()));
    }

    /// Creates an object and registers it for cleanup.
    pub async fn create(&self, kind: &Kind, body: &Value) -> Result<Value> {
        let api = self.api(kind);
        let made = api.create(body).await?;
        if !kind.namespaced {
            self.cleanup(&api, name_of(&made)?);
        }
        Ok(made)
    }

    async fn make_namespace(&self, name: &str, level: &str) -> Result<()> {
        let labels = json!({
            "e2e-framework": self.0.base,
            "e2e-run": self.0.settings.run_id,
            "kubernetes.io/metadata.name": name,
            "pod-security.kubernetes.io/enforce": level,
        });
        let body = json!({"metadata": {"name": name, "labels": labels}});
        self.api(&NAMESPACES).create(&body).await.context("namespace of the test")?;
        self.0.namespaces.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_string());
        let limit = Duration::from_secs(120);
        let accounts = self.api_in(&SERVICE_ACCOUNTS, name);
        accounts.wait("default", limit, "default service account", |o| Ok(o.is_some())).await?;
        let maps = self.api_in(&CONFIG_MAPS, name);
        maps.wait("kube-root-ca.crt", limit, "root certificates", |o| Ok(o.is_some())).await?;
        Ok(())
    }

    /// Ready, schedulable nodes without a taint that keeps pods away.
    pub async fn nodes(&self) -> Result<Vec<Value>> {
        let nodes = self.api(&NODES).items(&[]).await?;
        Ok(nodes.into_iter().filter(usable).collect())
    }

    /// The first usable node.
    pub async fn node(&self) -> Result<Value> {
        self.nodes().await?.into_iter().next().context("no ready, schedulable node")
    }

    /// What a failure is shown with: events and pods of the test's namespaces.
    pub async fn autopsy(&self) -> String {
        let namespaces = self.0.namespaces.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut out = String::new();
        for ns in namespaces {
            let events = self.api_in(&EVENTS, &ns).items(&[]).await.unwrap_or_default();
            for e in events.iter().rev().take(30).rev() {
                let about = text(e, "/involvedObject/name");
                out.push_str(&format!("  event {about} {}: {}\n", text(e, "/reason"), text(e, "/message")));
            }
            for p in self.api_in(&PODS, &ns).items(&[]).await.unwrap_or_default().iter().take(10) {
                let status: String = p["status"].to_string().chars().take(1200).collect();
                out.push_str(&format!("  pod {ns}/{} {status}\n", text(p, "/metadata/name")));
            }
        }
        out
    }

    /// Removes everything; with `wait` the namespaces are gone when it returns.
    pub async fn end(&self, wait: bool) -> Result<()> {
        let mut errors = Vec::new();
        let objects = std::mem::take(&mut *self.0.objects.lock().unwrap_or_else(PoisonError::into_inner));
        for (api, name) in objects.into_iter().rev() {
            match api.delete_now(&name).await {
                Err(e) if !is_code(&e, 404) && !is_code(&e, 409) => errors.push(format!("{e:#}")),
                _ => {}
            }
        }
        let namespaces = self.0.namespaces.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let api = self.api(&NAMESPACES);
        for name in &namespaces {
            match api.delete(name).await {
                Err(e) if !is_code(&e, 404) && !is_code(&e, 409) => errors.push(format!("{e:#}")),
                _ => {}
            }
        }
        for name in namespaces.iter().filter(|_| wait) {
            if let Err(e) = api.wait_gone(name, POD_GONE).await {
                errors.push(format!("{e:#}"));
            }
        }
        if errors.is_empty() { Ok(()) } else { anyhow::bail!("cleanup: {}", errors.join("; ")) }
    }
}

fn usable(node: &Value) -> bool {
    let ready =
        array(node, "/status/conditions").iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
    let tainted = array(node, "/spec/taints").iter().any(|t| t["effect"] != "PreferNoSchedule");
    ready && !tainted && node["spec"]["unschedulable"] != true
}
