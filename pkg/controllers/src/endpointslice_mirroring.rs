//! Copies Endpoints that users write for services without a selector into EndpointSlices.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_client::{Event, Store, WorkQueue};
use kube::ResourceExt;

use crate::claim::controller_ref;
use crate::context::{Action, Controller, Ctx, EventType, reference, work};
use crate::error::Error;
use crate::services::EndpointPortKey;
use crate::slices::{self, Key, MANAGED_BY, Plan, Ports, SERVICE_NAME, Slices, port_of, ports_of};

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "endpointslice-mirroring-controller",
    account: "endpointslicemirroring-controller",
    start: |ctx| Box::pin(run(ctx)),
};

const OURS: &str = "endpointslicemirroring-controller.k8s.io";
/// Label by which Endpoints ask not to be mirrored.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Annotation of Endpoints that are a lock and name no endpoints.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that stay with the Endpoints.
const OWN_ANNOTATIONS: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];
/// Addresses of one subset that are mirrored at most.
const CAPACITY: usize = 1000;

/// What the Endpoints say, by address family and ports, and what cannot be mirrored.
#[derive(Debug, Default, PartialEq)]
struct Mirror {
    groups: BTreeMap<(&'static str, Ports), Vec<Endpoint>>,
    /// Addresses that are none.
    invalid: usize,
    /// Addresses beyond [`CAPACITY`].
    beyond: usize,
}

/// Whether Endpoints want a mirror.
fn is_mirrored(endpoints: &Endpoints) -> bool {
    let has = |map: &Option<BTreeMap<String, String>>, key: &str, wanted: Option<&str>| {
        map.as_ref().and_then(|m| m.get(key)).is_some_and(|v| wanted.is_none_or(|w| v == w))
    };
    !has(&endpoints.metadata.labels, SKIP, Some("true"))
        && !has(&endpoints.metadata.annotations, LEADER, None)
}

fn subset_ports(subset: &EndpointSubset) -> Ports {
    let mut ports: Ports = subset
        .ports
        .iter()
        .flatten()
        .map(|p| EndpointPortKey {
            name: p.name.clone().unwrap_or_default(),
            protocol: p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: p.port,
            app_protocol: p.app_protocol.clone(),
        })
        .collect();
    ports.sort();
    ports
}

fn endpoint(address: &EndpointAddress, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|h| !h.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

/// Order of endpoints in a slice; those that are equal by it are the same endpoint.
fn order(a: &Endpoint, b: &Endpoint) -> Ordering {
    let key = |e: &Endpoint| {
        let target = e.target_ref.as_ref().map(|t| (t.namespace.clone(), t.name.clone(), t.uid.clone()));
        (e.addresses.clone(), e.hostname.clone(), e.node_name.clone(), target)
    };
    key(a).cmp(&key(b))
}

fn mirror(endpoints: &Endpoints) -> Mirror {
    let mut mirror = Mirror::default();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = subset_ports(subset);
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|a| (a, false));
        let mut taken = 0;
        for (address, ready) in ready.chain(unready) {
            if taken == CAPACITY {
                mirror.beyond += 1;
                continue;
            }
            let Ok(ip) = address.ip.parse::<IpAddr>().map(|ip| ip.to_canonical()) else {
                mirror.invalid += 1;
                continue;
            };
            taken += 1;
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            let group = mirror.groups.entry((family, ports.clone())).or_default();
            group.push(endpoint(address, ip, ready));
        }
    }
    for group in mirror.groups.values_mut() {
        group.sort_by(order);
        group.dedup_by(|b, a| order(a, b).is_eq());
        // Two subsets with the same ports would come together here.
        group.truncate(CAPACITY);
    }
    mirror
}

/// Labels and annotations of the slices.
fn meta(endpoints: &Endpoints) -> ObjectMeta {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), endpoints.name_any());
    labels.insert(MANAGED_BY.to_owned(), OURS.to_owned());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !OWN_ANNOTATIONS.contains(&key.as_str()));
    ObjectMeta {
        generate_name: Some(crate::template::name_prefix(&endpoints.name_any())),
        namespace: endpoints.metadata.namespace.clone(),
        labels: Some(labels),
        annotations: Some(annotations).filter(|a| !a.is_empty()),
        owner_references: Some(vec![controller_ref("v1", "Endpoints", &endpoints.metadata)]),
        ..ObjectMeta::default()
    }
}

/// Whether a slice says this already.
fn is_same(slice: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    let mut present = slice.endpoints.clone().unwrap_or_default();
    present.sort_by(order);
    present == wanted.endpoints.clone().unwrap_or_default()
        && ports_of(slice) == ports_of(wanted)
        && slice.metadata.labels == wanted.metadata.labels
        && slice.metadata.annotations.clone().unwrap_or_default()
            == wanted.metadata.annotations.clone().unwrap_or_default()
}

/// Compares the mirrored slices with the groups there should be: one slice for each.
fn decide(
    endpoints: &Endpoints,
    groups: BTreeMap<(&'static str, Ports), Vec<Endpoint>>,
    present: &[Arc<EndpointSlice>],
) -> Plan {
    let mut spare: Vec<&Arc<EndpointSlice>> = present.iter().collect();
    let mut kept = Vec::new();
    for ((family, ports), wanted) in groups {
        let at = spare.iter().position(|s| s.address_type == family && ports_of(s) == ports);
        let slice = EndpointSlice {
            metadata: meta(endpoints),
            address_type: family.to_owned(),
            ports: Some(ports.iter().map(port_of).collect()),
            endpoints: Some(wanted),
        };
        kept.push((slice, at.map(|at| spare.swap_remove(at))));
    }
    let mut plan = Plan::default();
    for (wanted, present) in kept {
        // A slice that is to go is used again rather than deleted; its family cannot be changed.
        let present = present.or_else(|| {
            let at = spare.iter().position(|s| s.address_type == wanted.address_type)?;
            Some(spare.swap_remove(at))
        });
        match present {
            Some(slice) if is_same(slice, &wanted) => {}
            Some(slice) => plan.update.push(replaced(slice, wanted)),
            // Nothing is made for an object that is being deleted.
            None if endpoints.metadata.deletion_timestamp.is_none() => plan.create.push(wanted),
            None => {}
        }
    }
    plan.delete = spare.into_iter().map(|s| s.name_any()).collect();
    plan
}

/// The slice with other contents.
fn replaced(slice: &EndpointSlice, wanted: EndpointSlice) -> EndpointSlice {
    let mut next = slice.clone();
    next.metadata.labels = wanted.metadata.labels;
    next.metadata.annotations = wanted.metadata.annotations;
    next.metadata.owner_references = wanted.metadata.owner_references;
    next.ports = wanted.ports;
    next.endpoints = wanted.endpoints;
    next
}

/// What the worker reads.
struct Mirrors {
    ctx: Arc<Ctx>,
    services: Arc<Store<Service>>,
    endpoints: Arc<Store<Endpoints>>,
    slices: Arc<Slices>,
}

fn key_of<K: kube::Resource>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

fn has_selector(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.selector.as_ref()).is_some_and(|s| !s.is_empty())
}

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let queue = WorkQueue::<Key>::new(ctx.shutdown.clone());
    let (services, endpoints) = (ctx.store::<Service>(), ctx.store::<Endpoints>());
    let slices = Slices::attach(&ctx, &queue, OURS, |s| slices::index_keys(s, OURS));
    let target = queue.clone();
    services.on_event(move |event| match event {
        Event::Applied { new, old: Some(old) } if has_selector(new) == has_selector(old) => {}
        Event::Applied { new: service, .. } | Event::Deleted(service) => target.add(key_of(service.as_ref())),
    });
    let target = queue.clone();
    endpoints.on_event(move |event| match event {
        Event::Applied { new, old } => {
            if is_mirrored(new) || old.as_ref().is_some_and(|old| is_mirrored(old)) {
                target.add(key_of(new.as_ref()));
            }
        }
        Event::Deleted(old) => target.add(key_of(old.as_ref())),
    });
    services.synced().await;
    endpoints.synced().await;
    slices.synced().await;
    let all = Arc::new(Mirrors { ctx: ctx.clone(), services, endpoints, slices });
    work(ctx, queue, 5, move |key| {
        let all = all.clone();
        async move { all.reconcile(key).await }
    })
    .await;
    Ok(())
}

impl Mirrors {
    async fn reconcile(&self, key: Key) -> Result<Action, Error> {
        let wanted = self.endpoints.get(&key.0, &key.1).filter(|e| is_mirrored(e));
        let service = self.services.get(&key.0, &key.1).filter(|s| !has_selector(s));
        let present = self.slices.of(&key);
        let (Some(endpoints), Some(_)) = (wanted, service) else {
            self.slices.forget(&key);
            let delete = present.iter().map(|s| s.name_any()).collect();
            self.slices.perform(&key, Plan { delete, ..Plan::default() }).await?;
            return Ok(Action::Done);
        };
        if !self.slices.are_seen(&key) {
            return Ok(Action::After(slices::UNSEEN));
        }
        let mirror = mirror(&endpoints);
        self.tell(&endpoints, &mirror);
        self.slices.perform(&key, decide(&endpoints, mirror.groups, &present)).await?;
        Ok(Action::Done)
    }

    /// Events about addresses that are left out.
    fn tell(&self, endpoints: &Endpoints, mirror: &Mirror) {
        let about = reference("v1", "Endpoints", &endpoints.metadata);
        if mirror.invalid > 0 {
            let note = format!("{} addresses are no IP addresses and were not mirrored", mirror.invalid);
            self.ctx.event(&about, EventType::Warning, "InvalidIPAddress", &note);
        }
        if mirror.beyond > 0 {
            let note = format!(
                "{} addresses were not mirrored: at most {CAPACITY} of each subset are",
                mirror.beyond
            );
            self.ctx.event(&about, EventType::Warning, "TooManyAddressesToMirror", &note);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn endpoints(subsets: Value) -> Endpoints {
        serde_json::from_value(json!({
            "metadata": {
                "name": "db", "namespace": "n", "uid": "e", "labels": {"a": "b"},
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "x": "y"},
            },
            "subsets": subsets,
        }))
        .unwrap()
    }

    fn plan(endpoints: &Endpoints, present: &[EndpointSlice]) -> Plan {
        let present: Vec<_> = present.iter().cloned().map(Arc::new).collect();
        decide(endpoints, mirror(endpoints).groups, &present)
    }

    fn named(mut slice: EndpointSlice, name: &str) -> EndpointSlice {
        slice.metadata.name = Some(name.to_owned());
        slice
    }

    #[test]
    fn one_slice_is_made_kept_and_used_again() {
        let first = endpoints(json!([{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 80}]}]));
        let made = plan(&first, &[]);
        assert_eq!((made.create.len(), made.update.len(), made.delete.len()), (1, 0, 0));
        let slice = named(made.create[0].clone(), "db-1");
        let labels = slice.metadata.labels.as_ref().unwrap();
        assert_eq!((labels["a"].as_str(), labels[MANAGED_BY].as_str()), ("b", OURS));
        assert_eq!(labels[SERVICE_NAME], "db");
        let annotations = slice.metadata.annotations.as_ref().unwrap();
        assert_eq!(annotations.keys().collect::<Vec<_>>(), ["x"]);
        assert_eq!(plan(&first, std::slice::from_ref(&slice)), Plan::default());

        let second = endpoints(json!([{"addresses": [{"ip": "10.2.3.4"}], "ports": [{"port": 9090}]}]));
        let changed = plan(&second, &[slice]);
        assert_eq!((changed.create.len(), changed.update.len(), changed.delete.len()), (0, 1, 0));
        assert_eq!(changed.update[0].name_any(), "db-1");
        assert_eq!(changed.update[0].ports.as_ref().unwrap()[0].port, Some(9090));
        assert_eq!(plan(&endpoints(json!([])), &changed.update).delete, ["db-1"]);
    }

    #[test]
    fn families_and_ports_make_slices() {
        let all = endpoints(json!([
            {"addresses": [{"ip": "10.0.0.2"}, {"ip": "fd00::1"}, {"ip": "nonsense"}],
             "notReadyAddresses": [{"ip": "10.0.0.1", "hostname": "h", "nodeName": "node"}],
             "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
            {"addresses": [{"ip": "10.0.0.2"}], "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]},
        ]));
        let seen = mirror(&all);
        assert_eq!((seen.groups.len(), seen.invalid, seen.beyond), (3, 1, 0));
        let plan = plan(&all, &[]);
        let slice = plan.create.iter().find(|s| s.endpoints.as_ref().unwrap().len() == 2).unwrap();
        let ready: Vec<_> = slice
            .endpoints
            .iter()
            .flatten()
            .map(|e| (e.addresses[0].as_str(), e.conditions.as_ref().unwrap().ready))
            .collect();
        assert_eq!(ready, [("10.0.0.1", Some(false)), ("10.0.0.2", Some(true))]);
    }

    #[test]
    fn a_thousand_of_each_subset() {
        let addresses: Vec<_> =
            (0..1100).map(|i| json!({"ip": format!("10.0.{}.{}", i / 250, i % 250)})).collect();
        let all = endpoints(json!([{"addresses": addresses, "ports": [{"port": 80}]}]));
        let seen = mirror(&all);
        assert_eq!((seen.groups.values().next().unwrap().len(), seen.beyond), (1000, 100));
    }

    #[test]
    fn locks_and_the_unwilling_have_none() {
        let mut plain = endpoints(json!([]));
        assert!(is_mirrored(&plain));
        plain.metadata.labels.get_or_insert_default().insert(SKIP.into(), "true".into());
        assert!(!is_mirrored(&plain));
        let mut lock = endpoints(json!([]));
        lock.metadata.annotations.get_or_insert_default().insert(LEADER.into(), "{}".into());
        assert!(!is_mirrored(&lock));
    }
}
