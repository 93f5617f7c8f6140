//! The Service by which programs find the cluster DNS. Entry point: [`run`].
//!
//! Every node answers on the cluster-DNS address itself, so the service proxy must leave it alone: the Service
//! carries the label `service.kubernetes.io/service-proxy-name`, by which Kubernetes tells every proxy that
//! another one is in charge. It has no selector; its EndpointSlices name the address where the servers do listen.

use std::net::IpAddr;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";
const PROXY: &str = "knarr-dns";
const FIELD_MANAGER: &str = "knarr-addons";
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MOST: Duration = Duration::from_secs(30);

/// Settings.
#[derive(Debug, Clone)]
pub struct DnsServiceConfig {
    /// The cluster-DNS addresses, the first family's first.
    pub addresses: Vec<IpAddr>,
}

fn ports() -> Value {
    json!([{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}])
}

/// The Service document.
pub fn service(cfg: &DnsServiceConfig) -> Value {
    let texts: Vec<String> = cfg.addresses.iter().map(ToString::to_string).collect();
    let families: Vec<&str> =
        cfg.addresses.iter().map(|a| if a.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
    let ports: Vec<Value> = ports()
        .as_array()
        .into_iter()
        .flatten()
        .cloned()
        .map(|mut p| {
            p["targetPort"] = json!(53);
            p
        })
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": {
            "k8s-app": "kube-dns",
            "kubernetes.io/cluster-service": "true",
            "kubernetes.io/name": "CoreDNS",
            "service.kubernetes.io/service-proxy-name": PROXY,
        }},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": texts.first(),
            "clusterIPs": texts,
            "ipFamilies": families,
            "ipFamilyPolicy": if families.len() > 1 { "RequireDualStack" } else { "SingleStack" },
            "ports": ports,
        },
    })
}

/// The EndpointSlice documents, one per address family.
pub fn slices(cfg: &DnsServiceConfig) -> Vec<Value> {
    cfg.addresses
        .iter()
        .map(|a| {
            let family = if a.is_ipv4() { "IPv4" } else { "IPv6" };
            json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {"name": format!("{NAME}-{}", family.to_ascii_lowercase()), "namespace": NAMESPACE, "labels": {
                    "kubernetes.io/service-name": NAME,
                    "endpointslice.kubernetes.io/managed-by": "knarr-addons",
                }},
                "addressType": family,
                "endpoints": [{"addresses": [a.to_string()], "conditions": {"ready": true, "serving": true, "terminating": false}}],
                "ports": ports(),
            })
        })
        .collect()
}

/// Keeps Service and EndpointSlices there until shutdown: made when missing, mended when changed.
pub async fn run(
    cfg: DnsServiceConfig,
    client: Client,
    shutdown: CancellationToken,
) -> Result<(), kube::Error> {
    let api: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let only = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
    let mut changes = std::pin::pin!(watcher(api, only));
    let mut retry = RETRY_FIRST;
    loop {
        match ensure(&cfg, &client).await {
            Ok(()) => retry = RETRY_FIRST,
            Err(e) => {
                tracing::warn!(error = %e, "cluster DNS Service not in place");
                if shutdown.run_until_cancelled(tokio::time::sleep(retry)).await.is_none() {
                    return Ok(());
                }
                retry = (retry * 2).min(RETRY_MOST);
                continue;
            }
        }
        // Our own writes come back here once; `ensure` then finds nothing to do.
        loop {
            match shutdown.run_until_cancelled(changes.next()).await {
                None | Some(None) => return Ok(()),
                Some(Some(Ok(
                    watcher::Event::Apply(_) | watcher::Event::Delete(_) | watcher::Event::InitDone,
                ))) => break,
                Some(Some(Ok(_))) => {}
                Some(Some(Err(e))) => {
                    tracing::debug!(error = %e, "watch of the cluster DNS Service");
                    if shutdown.run_until_cancelled(tokio::time::sleep(retry)).await.is_none() {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// Puts Service and EndpointSlices in place once.
pub async fn ensure(cfg: &DnsServiceConfig, client: &Client) -> Result<(), kube::Error> {
    put::<Service>(client, service(cfg)).await?;
    for slice in slices(cfg) {
        put::<EndpointSlice>(client, slice).await?;
    }
    Ok(())
}

async fn put<K>(client: &Client, wanted: Value) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), NAMESPACE);
    let name = wanted.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    match api.get_opt(&name).await? {
        None => {
            let object = serde_json::from_value(wanted).map_err(kube::Error::SerdeError)?;
            api.create(&params, &object).await.map(drop)
        }
        Some(now) => {
            let now = serde_json::to_value(&now).map_err(kube::Error::SerdeError)?;
            if contains(&now, &wanted) {
                return Ok(());
            }
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
            api.patch(&name, &params, &Patch::Merge(wanted)).await.map(drop)
        }
    }
}

/// True if all of `wanted` is in `now`; the server may have added more.
fn contains(now: &Value, wanted: &Value) -> bool {
    match (now, wanted) {
        (Value::Object(n), Value::Object(w)) => {
            // Type information is not kept in typed lists and objects.
            w.iter()
                .filter(|(k, _)| *k != "apiVersion" && *k != "kind")
                .all(|(k, v)| n.get(k).is_some_and(|n| contains(n, v)))
        }
        (Value::Array(n), Value::Array(w)) => {
            n.len() == w.len() && n.iter().zip(w).all(|(n, w)| contains(n, w))
        }
        (n, w) => n == w,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_valid_and_recognized_when_in_place() {
        let cfg =
            DnsServiceConfig { addresses: vec!["10.43.0.10".parse().unwrap(), "fd43::a".parse().unwrap()] };
        let typed: Service = serde_json::from_value(service(&cfg)).unwrap();
        let mut now = serde_json::to_value(&typed).unwrap();
        now["metadata"]["uid"] = json!("x");
        now["spec"]["sessionAffinity"] = json!("None");
        assert!(contains(&now, &service(&cfg)));
        now["metadata"]["labels"]["service.kubernetes.io/service-proxy-name"] = json!("other");
        assert!(!contains(&now, &service(&cfg)));
        let slices = slices(&cfg);
        assert_eq!(slices.len(), 2);
        for s in slices {
            let typed: EndpointSlice = serde_json::from_value(s.clone()).unwrap();
            assert!(contains(&serde_json::to_value(&typed).unwrap(), &s));
        }
    }
}
