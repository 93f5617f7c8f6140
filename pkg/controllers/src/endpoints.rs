//! Writes Endpoints for services with a selector: the older form, which holds everything in one object.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_client::{Event, Store, WorkQueue};
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};

use crate::context::{Action, Controller, Ctx, work};
use crate::endpointslice::follow_pods;
use crate::error::{During, Error};
use crate::pods;
use crate::selector::has_all;
use crate::services::{self, EndpointPortKey};

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "endpoints-controller",
    account: "endpoint-controller",
    start: |ctx| Box::pin(run(ctx)),
};

const HEADLESS: &str = "service.kubernetes.io/headless";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const OURS: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses in one object at most.
const CAPACITY: usize = 1000;

type Key = (String, String);

fn address(service: &Service, pod: &Pod, ip: String) -> EndpointAddress {
    EndpointAddress {
        ip,
        hostname: services::host_name(pod, service),
        node_name: pods::node_name(pod).map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
    }
}

/// The subsets of a service, and whether addresses had to be left out.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let spec = service.spec.as_ref();
    let family =
        spec.and_then(|s| s.ip_families.as_ref()?.first().cloned()).unwrap_or_else(|| "IPv4".to_owned());
    let has_ports = spec.and_then(|s| s.ports.as_ref()).is_some_and(|p| !p.is_empty());
    let mut groups: BTreeMap<Vec<EndpointPortKey>, (Vec<EndpointAddress>, Vec<EndpointAddress>)> =
        BTreeMap::new();
    let mut sorted: Vec<_> = pods
        .iter()
        // A pod that is going away is no longer told here, unless the service wants all.
        .filter(|p| services::publishes_unready(service) || p.metadata.deletion_timestamp.is_none())
        .filter_map(|p| services::address(p, &family).map(|ip| (ip, p)))
        .collect();
    sorted.sort_by(|a, b| (&a.0, &a.1.metadata.uid).cmp(&(&b.0, &b.1.metadata.uid)));
    let truncated = sorted.len() > CAPACITY;
    // Ready ones are kept first.
    sorted.sort_by_key(|(_, p)| truncated && !pods::is_ready(p));
    sorted.truncate(CAPACITY);
    for (ip, pod) in sorted {
        let ports = services::ports(service, pod);
        if has_ports && ports.is_empty() {
            continue;
        }
        let group = groups.entry(ports).or_default();
        let ready = services::publishes_unready(service) || pods::is_ready(pod);
        let list = if ready { &mut group.0 } else { &mut group.1 };
        list.push(address(service, pod, ip));
    }
    let some = |v: Vec<EndpointAddress>| Some(v).filter(|v| !v.is_empty());
    let subsets = groups.into_iter().map(|(ports, (ready, unready))| EndpointSubset {
        addresses: some(ready),
        not_ready_addresses: some(unready),
        ports: Some(ports.iter().map(port_of).collect::<Vec<_>>()).filter(|p| !p.is_empty()),
    });
    (subsets.collect(), truncated)
}

fn port_of(key: &EndpointPortKey) -> EndpointPort {
    EndpointPort {
        name: Some(key.name.clone()).filter(|n| !n.is_empty()),
        port: key.port,
        protocol: Some(key.protocol.clone()),
        app_protocol: key.app_protocol.clone(),
    }
}

/// The object as it should be; `None` when it is so already.
fn decide(service: &Service, pods: &[Arc<Pod>], present: Option<&Endpoints>) -> Option<Endpoints> {
    let (subsets, truncated) = subsets(service, pods);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.to_owned(), OURS.to_owned());
    labels.remove(HEADLESS);
    if services::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    let mut next = present.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    next.metadata.labels = Some(labels);
    next.subsets = Some(subsets).filter(|s| !s.is_empty());
    let annotations = next.metadata.annotations.get_or_insert_default();
    if truncated {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    if annotations.is_empty() {
        next.metadata.annotations = None;
    }
    let same = present.is_some_and(|p| {
        p.subsets.clone().unwrap_or_default() == next.subsets.clone().unwrap_or_default()
            && p.metadata.labels == next.metadata.labels
            && p.metadata.annotations.clone().unwrap_or_default()
                == next.metadata.annotations.clone().unwrap_or_default()
    });
    (!same).then_some(next)
}

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let queue = WorkQueue::<Key>::new(ctx.shutdown.clone());
    let (services, store) = (ctx.store::<Service>(), ctx.store::<Endpoints>());
    {
        let queue = queue.clone();
        store.on_event(move |event| {
            let object = match event {
                Event::Applied { new, .. } => new,
                Event::Deleted(old) => old,
            };
            queue.add((object.namespace().unwrap_or_default(), object.name_any()));
        });
    }
    {
        let queue = queue.clone();
        services.on_event(move |event| {
            let service = match event {
                Event::Applied { new, .. } => new,
                Event::Deleted(old) => old,
            };
            queue.add((service.namespace().unwrap_or_default(), service.name_any()));
        });
    }
    follow_pods(&ctx, &queue, &services);
    services.synced().await;
    store.synced().await;
    ctx.store::<Pod>().synced().await;
    let run = ctx.clone();
    work(ctx, queue, 5, move |key| {
        let (ctx, services, store) = (run.clone(), services.clone(), store.clone());
        async move { reconcile(&ctx, &services, &store, &key.0, &key.1).await }
    })
    .await;
    Ok(())
}

async fn reconcile(
    ctx: &Ctx,
    services: &Store<Service>,
    store: &Store<Endpoints>,
    namespace: &str,
    name: &str,
) -> Result<Action, Error> {
    let api = ctx.api::<Endpoints>(namespace);
    let present = store.get(namespace, name);
    let Some(service) = services.get(namespace, name) else {
        let ours = |e: &Arc<Endpoints>| {
            e.metadata.labels.as_ref().and_then(|l| l.get(MANAGED_BY)).is_some_and(|v| v == OURS)
        };
        if present.filter(ours).is_some() {
            match api.delete(name, &DeleteParams::default()).await.during(
                "delete",
                "Endpoints",
                namespace,
                name,
            ) {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        return Ok(Action::Done);
    };
    let Some(selector) = service.spec.as_ref().and_then(|s| s.selector.clone()).filter(|s| !s.is_empty())
    else {
        return Ok(Action::Done);
    };
    if service.metadata.deletion_timestamp.is_some()
        || service.spec.as_ref().and_then(|s| s.type_.as_deref()) == Some("ExternalName")
    {
        return Ok(Action::Done);
    }
    let pods: Vec<_> = ctx
        .store::<Pod>()
        .list_ns(namespace)
        .into_iter()
        .filter(|p| services::is_candidate(p) && has_all(&selector, p.metadata.labels.as_ref()))
        .collect();
    let Some(next) = decide(&service, &pods, present.as_deref()) else { return Ok(Action::Done) };
    let result = if present.is_some() {
        api.replace(name, &PostParams::default(), &next).await.during("update", "Endpoints", namespace, name)
    } else {
        api.create(&PostParams::default(), &next).await.during("create", "Endpoints", namespace, name)
    };
    match result {
        Err(error) if error.is_namespace_terminating() || error.is_not_found() => Ok(Action::Done),
        Err(error) => Err(error),
        Ok(_) => Ok(Action::Done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::pod;
    use serde_json::json;

    #[test]
    fn ready_and_unready() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "n"},
            "spec": {"clusterIP": "10.0.0.1", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
        }))
        .unwrap();
        let backend = |i: usize, ready: &str| {
            let name = format!("p{i}");
            Arc::new(pod(json!({
                "metadata": {"name": name, "uid": name, "namespace": "n"}, "spec": {"nodeName": "x", "containers": []},
                "status": {"phase": "Running", "podIP": format!("10.1.0.{i}"), "conditions": [{"type": "Ready", "status": ready}]},
            })))
        };
        let pods = [backend(2, "True"), backend(1, "True"), backend(3, "False")];
        let made = decide(&service, &pods, None).unwrap();
        let subset = &made.subsets.as_ref().unwrap()[0];
        let ips: Vec<_> = subset.addresses.iter().flatten().map(|a| a.ip.as_str()).collect();
        assert_eq!(ips, ["10.1.0.1", "10.1.0.2"]);
        assert_eq!(subset.not_ready_addresses.as_ref().unwrap().len(), 1);
        assert_eq!(subset.ports.as_ref().unwrap()[0].port, 8080);
        assert_eq!(decide(&service, &pods, Some(&made)), None);
        assert_eq!(decide(&service, &[], Some(&made)).unwrap().subsets, None);
    }
}
