//! The decision on one question. Entry point: [`answer`]. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::index::{EndpointEntry, Index, Port, ServiceEntry};

/// Seconds that answers and negative answers may be kept.
pub(crate) const TTL: u32 = 5;
/// Version of the naming specification.
const SCHEMA_VERSION: &str = "1.1.0";
/// Names that lead from one to the next before we give up.
const CHAIN_LIMIT: usize = 8;

/// Records of an answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    /// Answer section.
    pub answers: Vec<Record>,
    /// Authority section: the start of authority for negative answers.
    pub authority: Vec<Record>,
    /// Additional section.
    pub additional: Vec<Record>,
    /// The chain of names leads to this one, which is not ours: its records belong into the answer too.
    pub continue_with: Option<Name>,
}

/// What to do with a question.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Answer with authority.
    Authoritative(ResponseCode, Box<Answer>),
    /// Ask the node's resolvers.
    Forward,
    /// Not known yet.
    NotReady,
}

/// What a name below the zone stands for.
enum Found<'a> {
    Service(&'a ServiceEntry, &'a str, &'a str),
    Endpoints(Vec<&'a EndpointEntry>, &'a str, &'a str),
    /// A port of a service: `_port._protocol` before it.
    Port(&'a str, &'a str, &'a ServiceEntry, &'a str, &'a str),
    Pod(IpAddr),
    Version,
    NameServer,
    Apex,
    /// A name between others, without records of its own.
    Empty,
    Nothing,
}

/// Decides on a question.
pub fn answer(index: &Index, query: &Query) -> Outcome {
    if query.query_class() != DNSClass::IN {
        return Outcome::Forward;
    }
    let name = query.name();
    if !index.zone.zone_of(name) {
        return reverse(index, query);
    }
    if !index.complete {
        return Outcome::NotReady;
    }
    let mut a = Answer::default();
    let code = resolve(index, name, query.query_type(), &mut a, CHAIN_LIMIT);
    if a.answers.is_empty() {
        a.authority.push(soa(index));
    }
    Outcome::Authoritative(code, Box::new(a))
}

/// Addresses back to names; those of no service of ours are left to the node's resolvers.
fn reverse(index: &Index, query: &Query) -> Outcome {
    let Some(address) = reverse_address(query.name()) else { return Outcome::Forward };
    if !index.complete {
        return Outcome::NotReady;
    }
    let names = index.names_of(address);
    if names.is_empty() {
        return Outcome::Forward;
    }
    let mut a = Answer::default();
    if matches!(query.query_type(), RecordType::PTR | RecordType::ANY) {
        let names = names.iter().filter_map(|labels| below(index, labels.iter().map(String::as_str)));
        a.answers = names.map(|n| record(query.name(), RData::PTR(PTR(n)))).collect();
    } else {
        a.authority.push(soa(index));
    }
    Outcome::Authoritative(ResponseCode::NoError, Box::new(a))
}

/// The address a name under in-addr.arpa or ip6.arpa stands for.
fn reverse_address(name: &Name) -> Option<IpAddr> {
    let labels = labels_of(name)?;
    let (last, rest) = labels.split_last()?;
    if last != "arpa" {
        return None;
    }
    let (family, digits) = rest.split_last()?;
    match (family.as_str(), digits.len()) {
        ("in-addr", 4) => {
            let text: Vec<&str> = digits.iter().rev().map(String::as_str).collect();
            text.join(".").parse().ok()
        }
        ("ip6", 32) if digits.iter().all(|d| d.len() == 1) => {
            let hex: String = digits.iter().rev().map(String::as_str).collect();
            u128::from_str_radix(&hex, 16).ok().map(|n| IpAddr::V6(n.into()))
        }
        _ => None,
    }
}

fn labels_of(name: &Name) -> Option<Vec<String>> {
    name.iter().map(|l| std::str::from_utf8(l).ok().map(str::to_ascii_lowercase)).collect()
}

/// A name of these labels below the zone.
fn below<'a>(index: &Index, labels: impl IntoIterator<Item = &'a str>) -> Option<Name> {
    let own: Vec<&[u8]> = labels.into_iter().map(str::as_bytes).collect();
    let all = own.into_iter().chain(index.zone.iter());
    let mut name = Name::from_labels(all).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

fn address_record(name: &Name, address: IpAddr) -> Record {
    match address {
        IpAddr::V4(a) => record(name, RData::A(A(a))),
        IpAddr::V6(a) => record(name, RData::AAAA(AAAA(a))),
    }
}

fn soa(index: &Index) -> Record {
    let ns = below(index, ["ns", "dns"]).unwrap_or_else(|| index.zone.clone());
    let mailbox = below(index, ["hostmaster"]).unwrap_or_else(|| index.zone.clone());
    // Nobody transfers the zone: the serial number stays.
    record(&index.zone, RData::SOA(SOA::new(ns, mailbox, 1, 7200, 1800, 86400, TTL)))
}

fn wants(kind: RecordType, address: IpAddr) -> bool {
    match kind {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        RecordType::ANY => true,
        _ => false,
    }
}

fn resolve(index: &Index, name: &Name, kind: RecordType, a: &mut Answer, left: usize) -> ResponseCode {
    let Some(labels) = labels_of(name) else { return ResponseCode::NXDomain };
    let own =
        labels.get(..labels.len().saturating_sub(usize::from(index.zone.num_labels()))).unwrap_or_default();
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    match find(index, &own) {
        Found::Nothing => return ResponseCode::NXDomain,
        Found::Empty => {}
        Found::Apex => match kind {
            RecordType::SOA => a.answers.push(soa(index)),
            RecordType::NS => {
                let ns = below(index, ["ns", "dns"]).unwrap_or_else(|| index.zone.clone());
                a.additional.extend(index.dns_addresses.iter().map(|ip| address_record(&ns, *ip)));
                a.answers.push(record(name, RData::NS(NS(ns))));
            }
            _ => {}
        },
        Found::Version => {
            if matches!(kind, RecordType::TXT | RecordType::ANY) {
                a.answers.push(record(name, RData::TXT(TXT::new(vec![SCHEMA_VERSION.to_owned()]))));
            }
        }
        Found::NameServer => {
            let addresses = index.dns_addresses.iter().filter(|ip| wants(kind, **ip));
            a.answers.extend(addresses.map(|ip| address_record(name, *ip)));
        }
        Found::Pod(address) => a.answers.extend(wants(kind, address).then(|| address_record(name, address))),
        Found::Endpoints(list, service, namespace) => {
            if kind == RecordType::SRV {
                endpoint_srv(index, name, &list, |_| true, service, namespace, a);
            } else {
                addresses(name, kind, list.iter().map(|e| e.address), a);
            }
        }
        Found::Port(port, protocol, entry, service, namespace) => {
            let matches = |p: &Port| p.name == port && p.protocol == protocol;
            return service_srv(index, name, kind, entry, matches, service, namespace, a);
        }
        Found::Service(entry, service, namespace) => {
            return service_records(index, name, kind, entry, service, namespace, a, left);
        }
    }
    ResponseCode::NoError
}

/// Where labels below the zone lead.
fn find<'a>(index: &'a Index, own: &[&'a str]) -> Found<'a> {
    match own {
        [] => Found::Apex,
        ["dns-version"] => Found::Version,
        ["ns", "dns"] => Found::NameServer,
        ["svc" | "pod" | "dns"] => Found::Empty,
        [namespace, "svc" | "pod"] if index.has_namespace(namespace) => Found::Empty,
        [address, namespace, "pod"] if index.has_namespace(namespace) => {
            pod_address(address).map_or(Found::Nothing, Found::Pod)
        }
        [service, namespace, "svc"] => index
            .service(namespace, service)
            .map_or(Found::Nothing, |e| Found::Service(e, service, namespace)),
        [label, service, namespace, "svc"] => {
            let Some(entry) = index.service(namespace, service) else { return Found::Nothing };
            if let Some(protocol) = label.strip_prefix('_') {
                let any = entry.ports.iter().any(|p| p.protocol == protocol);
                return if any { Found::Empty } else { Found::Nothing };
            }
            let of_label: Vec<_> =
                index.endpoints(namespace, service).into_iter().filter(|e| e.label == *label).collect();
            if of_label.is_empty() { Found::Nothing } else { Found::Endpoints(of_label, service, namespace) }
        }
        [port, protocol, service, namespace, "svc"] => {
            let found = index.service(namespace, service);
            match (port.strip_prefix('_'), protocol.strip_prefix('_'), found) {
                (Some(port), Some(protocol), Some(entry)) => {
                    Found::Port(port, protocol, entry, service, namespace)
                }
                _ => Found::Nothing,
            }
        }
        _ => Found::Nothing,
    }
}

/// "10-42-0-5" and "fd00--5".
fn pod_address(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".");
    v4.parse().or_else(|_| label.replace('-', ":").parse()).ok()
}

fn addresses(name: &Name, kind: RecordType, list: impl Iterator<Item = IpAddr>, a: &mut Answer) {
    let distinct: BTreeSet<IpAddr> = list.filter(|ip| wants(kind, *ip)).collect();
    a.answers.extend(distinct.into_iter().map(|ip| address_record(name, ip)));
}

#[allow(clippy::too_many_arguments)]
fn service_records(
    index: &Index,
    name: &Name,
    kind: RecordType,
    entry: &ServiceEntry,
    service: &str,
    namespace: &str,
    a: &mut Answer,
    left: usize,
) -> ResponseCode {
    if let Some(target) = &entry.external_name {
        a.answers.push(record(name, RData::CNAME(CNAME(target.clone()))));
        let follow = matches!(kind, RecordType::A | RecordType::AAAA | RecordType::SRV | RecordType::TXT);
        match follow {
            true if !index.zone.zone_of(target) => a.continue_with = Some(target.clone()),
            true if left > 0 => return resolve(index, target, kind, a, left - 1),
            _ => {}
        }
        return ResponseCode::NoError;
    }
    if kind == RecordType::SRV {
        return service_srv(index, name, kind, entry, |_| true, service, namespace, a);
    }
    if entry.cluster_ips.is_empty() {
        addresses(name, kind, index.endpoints(namespace, service).into_iter().map(|e| e.address), a);
    } else {
        addresses(name, kind, entry.cluster_ips.iter().copied(), a);
    }
    ResponseCode::NoError
}

/// Ports of a service. A question for another type than SRV finds the name, but no record.
#[allow(clippy::too_many_arguments)]
fn service_srv(
    index: &Index,
    name: &Name,
    kind: RecordType,
    entry: &ServiceEntry,
    wanted: impl Fn(&Port) -> bool,
    service: &str,
    namespace: &str,
    a: &mut Answer,
) -> ResponseCode {
    if entry.cluster_ips.is_empty() {
        let endpoints: Vec<&EndpointEntry> = index.endpoints(namespace, service).into_iter().collect();
        if !endpoints.iter().any(|e| e.ports.iter().any(&wanted)) {
            return ResponseCode::NXDomain;
        }
        if kind == RecordType::SRV {
            endpoint_srv(index, name, &endpoints, wanted, service, namespace, a);
        }
        return ResponseCode::NoError;
    }
    let ports: Vec<&Port> = entry.ports.iter().filter(|p| wanted(p)).collect();
    if ports.is_empty() {
        return ResponseCode::NXDomain;
    }
    let target = below(index, [service, namespace, "svc"]);
    if let Some(target) = target.filter(|_| kind == RecordType::SRV) {
        let weight = weight(ports.len());
        for p in ports {
            a.answers.push(record(name, RData::SRV(SRV::new(0, weight, p.number, target.clone()))));
        }
        a.additional.extend(entry.cluster_ips.iter().map(|ip| address_record(&target, *ip)));
    }
    ResponseCode::NoError
}

fn weight(count: usize) -> u16 {
    u16::try_from(100 / count.max(1)).unwrap_or(1).max(1)
}

fn endpoint_srv(
    index: &Index,
    name: &Name,
    endpoints: &[&EndpointEntry],
    wanted: impl Fn(&Port) -> bool,
    service: &str,
    namespace: &str,
    a: &mut Answer,
) {
    let mut targets: BTreeSet<(u16, Name)> = BTreeSet::new();
    for e in endpoints {
        let Some(target) = below(index, [e.label.as_str(), service, namespace, "svc"]) else { continue };
        let before = targets.len();
        targets.extend(e.ports.iter().filter(|p| wanted(p)).map(|p| (p.number, target.clone())));
        if targets.len() > before {
            a.additional.push(address_record(&target, e.address));
        }
    }
    let weight = weight(targets.len());
    a.answers
        .extend(targets.into_iter().map(|(port, t)| record(name, RData::SRV(SRV::new(0, weight, port, t)))));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn index() -> Index {
        let mut i = Index::new("cluster.local").unwrap();
        i.complete = true;
        i.dns_addresses = vec!["10.43.0.10".parse().unwrap()];
        let service = |name: &str, spec: Value| {
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "d"}, "spec": spec}))
                .unwrap()
        };
        i.put_namespace(&serde_json::from_value(json!({"metadata": {"name": "d"}})).unwrap());
        i.put_service(&service(
            "web",
            json!({"clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7", "fd43::7"],
            "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]}),
        ));
        i.put_service(&service("db", json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]})));
        i.put_service(&service("far", json!({"type": "ExternalName", "externalName": "Example.com"})));
        i.put_service(&service(
            "near",
            json!({"type": "ExternalName", "externalName": "web.d.svc.cluster.local"}),
        ));
        let slice = json!({"addressType": "IPv4", "metadata": {"name": "db-1", "namespace": "d",
            "labels": {"kubernetes.io/service-name": "db"}}, "ports": [{"name": "sql", "port": 5433}],
            "endpoints": [{"addresses": ["10.42.0.5"], "hostname": "db-0"}, {"addresses": ["10.42.0.6"]},
                {"addresses": ["10.42.0.7"], "conditions": {"ready": false}}]});
        i.put_slice(&serde_json::from_value(slice).unwrap());
        i
    }

    /// "code: answers | +additional", records without owner and class.
    fn ask(i: &Index, name: &str, kind: RecordType) -> String {
        match answer(i, &Query::query(Name::from_ascii(name).unwrap(), kind)) {
            Outcome::Authoritative(code, a) => {
                let text = |r: &[Record]| {
                    r.iter().map(|r| format!("{} {}", r.record_type(), r.data)).collect::<Vec<_>>().join(", ")
                };
                assert_eq!(
                    a.answers.is_empty(),
                    a.authority.len() == 1,
                    "a negative answer has the start of authority"
                );
                assert!(a.answers.iter().chain(&a.authority).all(|r| r.ttl == 5));
                let mut out = format!("{code:?}: {}", text(&a.answers));
                if !a.additional.is_empty() {
                    out += &format!(" + {}", text(&a.additional));
                }
                out + &a.continue_with.map(|n| format!(" -> {n}")).unwrap_or_default()
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn questions_and_answers() {
        use RecordType as T;
        let i = index();
        for (name, kind, want) in [
            ("web.d.svc.cluster.local.", T::A, "NoError: A 10.43.0.7"),
            ("WEB.d.svc.Cluster.local.", T::A, "NoError: A 10.43.0.7"),
            ("web.d.svc.cluster.local.", T::AAAA, "NoError: AAAA fd43::7"),
            ("web.d.svc.cluster.local.", T::TXT, "NoError: "),
            ("nope.d.svc.cluster.local.", T::A, "NXDomain: "),
            ("x.web.d.svc.cluster.local.", T::A, "NXDomain: "),
            ("d.svc.cluster.local.", T::A, "NoError: "),
            ("e.svc.cluster.local.", T::A, "NXDomain: "),
            ("svc.cluster.local.", T::A, "NoError: "),
            ("web.d.cluster.local.", T::A, "NXDomain: "),
            ("db.d.svc.cluster.local.", T::A, "NoError: A 10.42.0.5, A 10.42.0.6"),
            ("db.d.svc.cluster.local.", T::AAAA, "NoError: "),
            ("db-0.db.d.svc.cluster.local.", T::A, "NoError: A 10.42.0.5"),
            ("10-42-0-6.db.d.svc.cluster.local.", T::A, "NoError: A 10.42.0.6"),
            ("10-42-0-7.db.d.svc.cluster.local.", T::A, "NXDomain: "),
            (
                "_http._tcp.web.d.svc.cluster.local.",
                T::SRV,
                "NoError: SRV 0 100 80 web.d.svc.cluster.local. + A 10.43.0.7, AAAA fd43::7",
            ),
            ("_http._udp.web.d.svc.cluster.local.", T::SRV, "NXDomain: "),
            ("_tcp.web.d.svc.cluster.local.", T::SRV, "NoError: "),
            ("_http._tcp.web.d.svc.cluster.local.", T::A, "NoError: "),
            (
                "_sql._tcp.db.d.svc.cluster.local.",
                T::SRV,
                "NoError: SRV 0 50 5433 10-42-0-6.db.d.svc.cluster.local., SRV 0 50 5433 db-0.db.d.svc.cluster.local. + A 10.42.0.6, A 10.42.0.5",
            ),
            ("far.d.svc.cluster.local.", T::A, "NoError: CNAME Example.com. -> Example.com."),
            ("far.d.svc.cluster.local.", T::CNAME, "NoError: CNAME Example.com."),
            ("near.d.svc.cluster.local.", T::A, "NoError: CNAME web.d.svc.cluster.local., A 10.43.0.7"),
            ("10-42-0-9.d.pod.cluster.local.", T::A, "NoError: A 10.42.0.9"),
            ("10-42-0-9.e.pod.cluster.local.", T::A, "NXDomain: "),
            ("what.d.pod.cluster.local.", T::A, "NXDomain: "),
            ("dns-version.cluster.local.", T::TXT, "NoError: TXT 1.1.0"),
            ("cluster.local.", T::NS, "NoError: NS ns.dns.cluster.local. + A 10.43.0.10"),
            ("ns.dns.cluster.local.", T::A, "NoError: A 10.43.0.10"),
            ("7.0.43.10.in-addr.arpa.", T::PTR, "NoError: PTR web.d.svc.cluster.local."),
            ("5.0.42.10.in-addr.arpa.", T::PTR, "NoError: PTR db-0.db.d.svc.cluster.local."),
            ("99.0.42.10.in-addr.arpa.", T::PTR, "Forward"),
            (
                "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.4.d.f.ip6.arpa.",
                T::PTR,
                "NoError: PTR web.d.svc.cluster.local.",
            ),
            ("example.com.", T::A, "Forward"),
        ] {
            assert_eq!(ask(&i, name, kind), want, "{name} {kind}");
        }
        let mut soon = index();
        soon.complete = false;
        assert_eq!(ask(&soon, "web.d.svc.cluster.local.", T::A), "NotReady");
        assert_eq!(ask(&soon, "example.com.", T::A), "Forward");
    }

    #[test]
    fn what_goes_is_forgotten() {
        let mut i = index();
        let slice = json!({"addressType": "IPv4", "metadata": {"name": "db-1", "namespace": "d",
            "labels": {"kubernetes.io/service-name": "db"}}, "endpoints": [{"addresses": ["10.42.0.8"]}]});
        i.put_slice(&serde_json::from_value(slice.clone()).unwrap());
        assert_eq!(ask(&i, "db.d.svc.cluster.local.", RecordType::A), "NoError: A 10.42.0.8");
        assert_eq!(ask(&i, "5.0.42.10.in-addr.arpa.", RecordType::PTR), "Forward");
        i.remove_slice(&serde_json::from_value(slice).unwrap());
        assert_eq!(ask(&i, "db.d.svc.cluster.local.", RecordType::A), "NoError: ");
        i.remove_service(
            &serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "d"}})).unwrap(),
        );
        assert_eq!(ask(&i, "web.d.svc.cluster.local.", RecordType::A), "NXDomain: ");
        assert_eq!(ask(&i, "7.0.43.10.in-addr.arpa.", RecordType::PTR), "Forward");
    }
}
