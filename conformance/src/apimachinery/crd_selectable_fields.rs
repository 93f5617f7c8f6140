//! Upstream's crd_selectable_fields.go.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::crd_conversion_webhook::converted;
use super::serving;
use crate::Result;
use crate::api::{Api, name_of, text};
use crate::context::Context;
use crate::watch::Watch;

tests! {
    "[sig-api-machinery] CustomResourceFieldSelectors [Privileged:ClusterAdmin] CustomResourceFieldSelectors MUST list and watch custom resources matching the field selector" => selects,
}

type Names = BTreeSet<String>;

/// A watch and what it has shown.
struct Seen {
    watch: Watch,
    what: String,
    added: Names,
    deleted: Names,
}

impl Seen {
    async fn watching(api: &Api, selector: &str) -> Result<Self> {
        let watch = api.watch(&[("fieldSelector", selector)]).await?;
        Ok(Self { watch, what: format!("watch of {selector}"), added: Names::new(), deleted: Names::new() })
    }

    /// An informer: the streaming list first.
    async fn informed(api: &Api, selector: &str) -> Result<Self> {
        let query = [
            ("fieldSelector", selector),
            ("sendInitialEvents", "true"),
            ("resourceVersionMatch", "NotOlderThan"),
            ("allowWatchBookmarks", "true"),
        ];
        let watch = api.watch(&query).await?;
        Ok(Self {
            watch,
            what: format!("informer of {selector}"),
            added: Names::new(),
            deleted: Names::new(),
        })
    }

    /// Reads on until exactly these were added and deleted.
    async fn until(&mut self, added: &Names, deleted: &Names) -> Result<()> {
        let end = tokio::time::Instant::now() + Duration::from_secs(30);
        while (&self.added, &self.deleted) != (added, deleted) {
            let next = tokio::time::timeout_at(end, self.watch.next()).await;
            let Ok(next) = next else {
                anyhow::bail!(
                    "{}: want {added:?} added and {deleted:?} deleted, saw {:?} and {:?}",
                    self.what,
                    self.added,
                    self.deleted
                );
            };
            let Some(event) = next? else { anyhow::bail!("{}: the server ended it", self.what) };
            let name = text(&event.object, "/metadata/name").to_string();
            match event.kind.as_str() {
                "ADDED" => drop(self.added.insert(name)),
                "DELETED" => drop(self.deleted.insert(name)),
                "ERROR" => anyhow::bail!("{}: {}", self.what, event.object),
                _ => {}
            }
        }
        Ok(())
    }
}

async fn listed(api: &Api, selector: &str, wanted: &[&str]) -> Result<()> {
    let items = api.items(&[("fieldSelector", selector)]).await?;
    let names: Names = items.iter().map(|i| text(i, "/metadata/name").to_string()).collect();
    ensure_eq!(names, set(wanted), "list of {} with {selector}", api.kind.api_version());
    Ok(())
}

fn set(names: &[&str]) -> Names {
    names.iter().map(|n| (*n).to_string()).collect()
}

async fn selects(cx: Context) -> Result<()> {
    let server = serving::conversion(&cx).await?;
    let custom = converted(&cx, &server, true).await?;
    let (v1, v2) = (custom.api(&cx, "v1"), custom.api(&cx, "v2"));
    let mut host = Seen::watching(&v2, "host=host1").await?;
    let mut host_port = Seen::watching(&v2, "host=host1,port=80").await?;
    let mut joined = Seen::watching(&v1, "hostPort=host1:80").await?;
    let mut host_informer = Seen::informed(&v2, "host=host1").await?;
    let mut host_port_informer = Seen::informed(&v2, "host=host1,port=80").await?;
    let mut names = Vec::new();
    for body in [
        json!({"host": "host1", "port": "80"}),
        json!({"host": "host1", "port": "8080"}),
        json!({"host": "host2"}),
    ] {
        let mut body: Value = body;
        body["metadata"] = json!({"name": cx.unique("selectable-field-cr")});
        names.push(name_of(&v2.create(&body).await?)?.to_string());
    }
    let (first, second) = (names[0].as_str(), names[1].as_str());
    listed(&v2, "host=host1", &[first, second]).await?;
    listed(&v2, "host=host1,port=80", &[first]).await?;
    listed(&v1, "hostPort=host1:80", &[first]).await?;
    listed(&v1, "hostPort=host1:8080", &[second]).await?;
    let (both, one, none) = (set(&[first, second]), set(&[first]), Names::new());
    for seen in [&mut host, &mut host_informer] {
        seen.until(&both, &none).await?;
    }
    for seen in [&mut host_port, &mut joined, &mut host_port_informer] {
        seen.until(&one, &none).await?;
    }
    // One is deleted by the selector, one moves out of it.
    v2.delete_collection(&[("fieldSelector", "host=host1,port=80")]).await?;
    v2.modify(second, |o| o["host"] = json!("host2")).await?;
    listed(&v2, "host=host1", &[]).await?;
    listed(&v2, "host=host1,port=80", &[]).await?;
    for seen in [&mut host, &mut host_informer] {
        seen.until(&both, &both).await?;
    }
    for seen in [&mut host_port, &mut joined, &mut host_port_informer] {
        seen.until(&one, &one).await?;
    }
    Ok(())
}
