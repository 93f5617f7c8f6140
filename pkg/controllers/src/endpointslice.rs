//! Writes EndpointSlices for services with a selector.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_client::{Event, Store, WorkQueue};
use kube::ResourceExt;

use crate::claim::controller_ref;
use crate::context::{Action, Controller, Ctx, work};
use crate::error::Error;
use crate::pods;
use crate::selector::has_all;
use crate::services;
use crate::slices::{self, Key, MANAGED_BY, Plan, Ports, SERVICE_NAME, Slices, port_of, ports_of};

/// Table row.
pub const CONTROLLER: Controller = Controller {
    name: "endpointslice-controller",
    account: "endpointslice-controller",
    start: |ctx| Box::pin(run(ctx)),
};

const OURS: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Endpoints in one slice at most.
const CAPACITY: usize = 100;

/// The endpoint of a pod.
fn endpoint(service: &Service, pod: &Pod, address: String, zone: Option<String>) -> Endpoint {
    let ready = pods::is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(services::publishes_unready(service) || (ready && !terminating)),
            serving: Some(ready),
            terminating: Some(terminating),
        }),
        hostname: services::host_name(pod, service),
        node_name: pods::node_name(pod).map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        zone,
        ..Endpoint::default()
    }
}

fn uid_of(endpoint: &Endpoint) -> &str {
    endpoint.target_ref.as_ref().and_then(|r| r.uid.as_deref()).unwrap_or_default()
}

/// Labels of a service's slices.
fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if services::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), service.name_any());
    labels.insert(MANAGED_BY.to_owned(), OURS.to_owned());
    labels
}

fn empty_slice(service: &Service, family: &str, ports: &Ports) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(crate::template::name_prefix(&service.name_any())),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service)),
            owner_references: Some(vec![controller_ref("v1", "Service", &service.metadata)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        ports: Some(ports.iter().map(port_of).collect()),
        endpoints: None,
    }
}

/// Compares the slices of one family with the endpoints there should be, by ports.
fn decide(
    service: &Service,
    family: &str,
    mut wanted: BTreeMap<Ports, Vec<Endpoint>>,
    present: &[Arc<EndpointSlice>],
) -> Plan {
    if wanted.is_empty() {
        // A service without endpoints keeps one empty slice, which tells that it has none.
        wanted.insert(Vec::new(), Vec::new());
    }
    let labels = labels(service);
    let mut plan = Plan::default();
    let mut by_ports: HashMap<Ports, Vec<&Arc<EndpointSlice>>> = HashMap::new();
    for slice in present {
        by_ports.entry(ports_of(slice)).or_default().push(slice);
    }
    for (ports, endpoints) in wanted {
        let slices = by_ports.remove(&ports).unwrap_or_default();
        fill(service, family, &ports, endpoints, &slices, &labels, &mut plan);
    }
    plan.delete.extend(by_ports.into_values().flatten().map(|s| s.name_any()));
    plan
}

/// Keeps endpoints where they are, puts new ones where there is room, and drops slices that become empty.
fn fill(
    service: &Service,
    family: &str,
    ports: &Ports,
    endpoints: Vec<Endpoint>,
    slices: &[&Arc<EndpointSlice>],
    labels: &BTreeMap<String, String>,
    plan: &mut Plan,
) {
    let placeholder = endpoints.is_empty();
    let mut left: BTreeMap<String, Endpoint> =
        endpoints.into_iter().map(|e| (uid_of(&e).to_owned(), e)).collect();
    let mut kept: Vec<(&EndpointSlice, Vec<Endpoint>)> = Vec::new();
    for slice in slices {
        let stay = slice.endpoints.iter().flatten().filter_map(|old| left.remove(uid_of(old))).collect();
        kept.push((slice, stay));
    }
    let mut left: Vec<Endpoint> = left.into_values().collect();
    // Slices that change anyway come first, then fuller ones, so that few slices are written.
    kept.sort_by_key(|(slice, stay)| (stay.len() == endpoint_count(slice), std::cmp::Reverse(stay.len())));
    for (_, stay) in &mut kept {
        let room = CAPACITY.saturating_sub(stay.len()).min(left.len());
        stay.extend(left.drain(..room));
    }
    let mut holds_placeholder = !placeholder;
    for (slice, stay) in kept {
        if stay.is_empty() && holds_placeholder {
            plan.delete.push(slice.name_any());
            continue;
        }
        holds_placeholder = true;
        if stay != slice.endpoints.clone().unwrap_or_default()
            || slice.metadata.labels.as_ref() != Some(labels)
        {
            let mut next = slice.clone();
            next.endpoints = Some(stay);
            next.metadata.labels = Some(labels.clone());
            plan.update.push(next);
        }
    }
    while !left.is_empty() || !holds_placeholder {
        holds_placeholder = true;
        let mut slice = empty_slice(service, family, ports);
        slice.endpoints = Some(left.drain(..left.len().min(CAPACITY)).collect());
        plan.create.push(slice);
    }
}

fn endpoint_count(slice: &EndpointSlice) -> usize {
    slice.endpoints.as_ref().map_or(0, Vec::len)
}

fn families(service: &Service) -> Vec<String> {
    let spec = service.spec.as_ref();
    let told = spec.and_then(|s| s.ip_families.clone()).unwrap_or_default();
    if told.is_empty() { vec!["IPv4".to_owned()] } else { told }
}

/// What the worker reads.
struct Services {
    ctx: Arc<Ctx>,
    services: Arc<Store<Service>>,
    nodes: Arc<Store<Node>>,
    slices: Arc<Slices>,
}

async fn run(ctx: Arc<Ctx>) -> Result<(), Error> {
    let queue = WorkQueue::<Key>::new(ctx.shutdown.clone());
    let services = ctx.store::<Service>();
    let slices = Slices::attach(&ctx, &queue, OURS, |s| slices::index_keys(s, OURS));
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
    let nodes = ctx.store::<Node>();
    services.synced().await;
    slices.synced().await;
    nodes.synced().await;
    ctx.store::<Pod>().synced().await;
    let all = Arc::new(Services { ctx: ctx.clone(), services, nodes, slices });
    work(ctx, queue, 5, move |key| {
        let all = all.clone();
        async move { all.reconcile(key).await }
    })
    .await;
    Ok(())
}

/// Queues the services that a pod change concerns.
pub(crate) fn follow_pods(ctx: &Ctx, queue: &WorkQueue<Key>, services: &Arc<Store<Service>>) {
    let (queue, services) = (queue.clone(), services.clone());
    ctx.store::<Pod>().on_event(move |event| {
        let (pod, old) = match event {
            Event::Applied { new, old } => {
                if let Some(old) = old
                    && !services::matters(new, old)
                {
                    return;
                }
                (new, old.as_ref())
            }
            Event::Deleted(old) => (old, None),
        };
        for service in services.list_ns(pod.metadata.namespace.as_deref().unwrap_or_default()) {
            let Some(wanted) = service.spec.as_ref().and_then(|s| s.selector.as_ref()) else { continue };
            let fits = |p: &Pod| !wanted.is_empty() && has_all(wanted, p.metadata.labels.as_ref());
            if fits(pod) || old.is_some_and(|o| fits(o)) {
                queue.add((service.namespace().unwrap_or_default(), service.name_any()));
            }
        }
    });
}

impl Services {
    async fn reconcile(&self, key: Key) -> Result<Action, Error> {
        let Some(service) = self.services.get(&key.0, &key.1) else {
            // The slices go with their owner, by garbage collection.
            self.slices.forget(&key);
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
        if !self.slices.are_seen(&key) {
            // The event of the new slice brings us back.
            return Ok(Action::After(slices::UNSEEN));
        }
        let pods: Vec<_> = self
            .ctx
            .store::<Pod>()
            .list_ns(&key.0)
            .into_iter()
            .filter(|p| services::is_candidate(p) && has_all(&selector, p.metadata.labels.as_ref()))
            .collect();
        let present = self.slices.of(&key);
        let families = families(&service);
        for family in &families {
            let mut wanted: BTreeMap<Ports, Vec<Endpoint>> = BTreeMap::new();
            for pod in &pods {
                let Some(address) = services::address(pod, family) else { continue };
                let zone = pods::node_name(pod)
                    .and_then(|n| self.nodes.get("", n))
                    .and_then(|n| n.metadata.labels.as_ref().and_then(|l| l.get(ZONE).cloned()));
                let ports = services::ports(&service, pod);
                wanted.entry(ports).or_default().push(endpoint(&service, pod, address, zone));
            }
            let ours: Vec<_> = present.iter().filter(|s| s.address_type == *family).cloned().collect();
            self.slices.perform(&key, decide(&service, family, wanted, &ours)).await?;
        }
        let stray =
            present.iter().filter(|s| !families.contains(&s.address_type)).map(|s| s.name_any()).collect();
        self.slices.perform(&key, Plan { delete: stray, ..Plan::default() }).await?;
        Ok(Action::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::pod;
    use serde_json::json;

    fn service() -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "n", "uid": "s", "labels": {"a": "b"}},
            "spec": {"clusterIP": "10.0.0.1", "selector": {"app": "web"},
                     "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]},
        }))
        .unwrap()
    }

    fn backend(i: usize, ready: &str) -> Pod {
        let name = format!("p{i}");
        pod(json!({
            "metadata": {"name": name, "uid": name, "namespace": "n"},
            "spec": {"nodeName": "node", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": format!("10.1.0.{i}"), "conditions": [{"type": "Ready", "status": ready}]},
        }))
    }

    fn wanted(pods: &[Pod]) -> BTreeMap<Ports, Vec<Endpoint>> {
        let mut all: BTreeMap<Ports, Vec<Endpoint>> = BTreeMap::new();
        for p in pods {
            let address = services::address(p, "IPv4").unwrap();
            all.entry(services::ports(&service(), p)).or_default().push(endpoint(
                &service(),
                p,
                address,
                None,
            ));
        }
        all
    }

    #[test]
    fn from_nothing_to_two_and_back() {
        let s = service();
        let plan = decide(&s, "IPv4", BTreeMap::new(), &[]);
        assert_eq!(plan.create.len(), 1);
        assert!(endpoint_count(&plan.create[0]) == 0, "an empty slice tells that there is no endpoint");
        let mut empty = plan.create[0].clone();
        empty.metadata.name = Some("web-1".into());
        assert_eq!(decide(&s, "IPv4", BTreeMap::new(), &[Arc::new(empty.clone())]), Plan::default());

        let pods = [backend(1, "True"), backend(2, "False")];
        let plan = decide(&s, "IPv4", wanted(&pods), &[Arc::new(empty)]);
        assert_eq!((plan.create.len(), plan.update.len(), plan.delete), (1, 0, vec!["web-1".to_owned()]));
        let made = &plan.create[0];
        assert_eq!(made.ports.as_ref().unwrap()[0].port, Some(8080));
        let ready: Vec<_> =
            made.endpoints.iter().flatten().map(|e| e.conditions.as_ref().unwrap().ready).collect();
        assert_eq!(ready, [Some(true), Some(false)]);
        let mut made = made.clone();
        made.metadata.name = Some("web-2".into());
        assert_eq!(decide(&s, "IPv4", wanted(&pods), &[Arc::new(made.clone())]), Plan::default());
        let plan = decide(&s, "IPv4", wanted(&pods[..1]), &[Arc::new(made)]);
        assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
        assert_eq!(endpoint_count(&plan.update[0]), 1);
    }

    #[test]
    fn slices_hold_a_hundred() {
        let pods: Vec<_> = (0..250).map(|i| backend(i, "True")).collect();
        let plan = decide(&service(), "IPv4", wanted(&pods), &[]);
        let sizes: Vec<_> = plan.create.iter().map(endpoint_count).collect();
        assert_eq!(sizes, [100, 100, 50]);
    }
}
