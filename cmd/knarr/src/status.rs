//! `knarr status`: asks the server like any client.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use k8s_openapi::api::core::v1::Node;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};

/// Prints each node (or the named one) with its state; with `wait` seconds left it tries again until all are Ready.
/// Exit code 0 if there is a node and all are Ready, else 1.
pub async fn run(kubeconfig: &str, node: Option<&str>, wait: u64) -> anyhow::Result<ExitCode> {
    let deadline = Instant::now() + Duration::from_secs(wait);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let outcome = match client(kubeconfig).await {
            Ok(client) => until_ready(client, node, left).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(nodes) => {
                for node in &nodes {
                    println!("node {}: {}", node.name_any(), if ready(node) { "Ready" } else { "NotReady" });
                }
                let good = !nodes.is_empty() && nodes.iter().all(ready);
                if nodes.is_empty() {
                    println!("no node has joined");
                }
                return Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            Err(error) if left.is_zero() => return Err(error),
            // Not up yet: nothing to watch, so look again shortly.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn client(path: &str) -> anyhow::Result<Client> {
    let file = Kubeconfig::read_from(path).with_context(|| format!("read kubeconfig {path}"))?;
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// The nodes as soon as all are Ready, or as they are when the time is over.
async fn until_ready(client: Client, name: Option<&str>, left: Duration) -> anyhow::Result<Vec<Node>> {
    use futures::StreamExt;
    let api: Api<Node> = Api::all(client);
    let only = name.map(|name| format!("metadata.name={name}"));
    let (mut params, mut config) = (kube::api::ListParams::default(), watcher::Config::default());
    if let Some(only) = &only {
        (params, config) = (params.fields(only), config.fields(only));
    }
    let list = api.list(&params).await.context("list nodes")?;
    let mut nodes = list.items;
    let mut events = Box::pin(watcher(api, config));
    let deadline = tokio::time::Instant::now() + left;
    while nodes.is_empty() || !nodes.iter().all(ready) {
        let Ok(next) = tokio::time::timeout_at(deadline, events.next()).await else { break };
        match next {
            Some(Ok(watcher::Event::Apply(node) | watcher::Event::InitApply(node))) => {
                nodes.retain(|n| n.name_any() != node.name_any());
                nodes.push(node);
            }
            Some(Ok(watcher::Event::Delete(node))) => nodes.retain(|n| n.name_any() != node.name_any()),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.into()),
            None => break,
        }
    }
    Ok(nodes)
}

fn ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}
