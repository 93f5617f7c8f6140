//! What the tables should be. Entry point: [`plan`]. Pure.
//!
//! Lookups do the work, so the number of rules a packet meets does not grow with the number of services:
//! `service-ips` and `node-ports` map an address and port to the service port's chain; that chain draws an
//! endpoint from a map of its own and translates to it. Adding or removing an endpoint changes elements of one
//! map and one rule.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use knarr_netlink::nft::{
    Base, Chain, ChainKind, Data, Family, Field, FieldType, Hook, Key, Rule, Sense, Set, SetData, Side, Stmt,
    Table, Verdict, name_of,
};

use crate::ProxyConfig;
use crate::model::{Endpoint, Reach, ServicePort};

/// Desired tables by family; a family without services has none.
pub type Tables = BTreeMap<Family, Table>;

/// Name of the table.
pub const TABLE: &str = "knarr-proxy";
/// Bit of the packet mark that asks for masquerading; the same as upstream's.
const MASQUERADE_MARK: u32 = 0x4000;
const SERVICE_IPS: &str = "service-ips";
const NODE_PORTS: &str = "node-ports";
const NO_ENDPOINT_IPS: &str = "no-endpoint-ips";
const NO_ENDPOINT_NODE_PORTS: &str = "no-endpoint-node-ports";
const CLUSTER_IPS: &str = "cluster-ips";
const HAIRPINS: &str = "hairpins";
const FIREWALL_IPS: &str = "firewall-ips";
const SERVICES: &str = "services";
const CHECKS: &str = "checks";
const UNUSED_PORTS: &str = "unused-ports";
const REJECT: &str = "reject";

/// The tables for these service ports.
pub fn plan(services: &[ServicePort], cfg: &ProxyConfig) -> Tables {
    let mut tables = Tables::new();
    for family in [Family::Ip, Family::Ip6] {
        let v4 = family == Family::Ip;
        let wanted = |s: &&ServicePort| s.cluster_ips.iter().any(|ip| ip.is_ipv4() == v4);
        let mut services = services.iter().filter(wanted).peekable();
        if services.peek().is_none() && !v4 {
            continue;
        }
        let mut planner = Planner { family, cfg, table: skeleton(family, cfg) };
        services.for_each(|s| planner.service(s));
        tables.insert(family, planner.table);
    }
    tables
}

fn base(kind: ChainKind, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { base: Some(Base { kind, hook, priority }), rules }
}

fn jump(chain: &str) -> Stmt {
    Stmt::Verdict(Verdict::Jump(chain.into()))
}

fn goto(chain: &str) -> Verdict {
    Verdict::Goto(chain.into())
}

/// Conditions under which a destination is a node port's: one list of statements per alternative.
fn node_port_destinations(family: Family, cfg: &ProxyConfig) -> Vec<Vec<Stmt>> {
    let local = Stmt::LocalAddress(Side::Destination, Sense::Is);
    let of_family = |n: &&IpNetwork| n.is_ipv4() == (family == Family::Ip);
    if cfg.node_port_addresses.is_empty() {
        let not_loopback = family.loopback().map(|n| Stmt::Address(Side::Destination, Sense::IsNot, n));
        return vec![not_loopback.into_iter().chain([local]).collect()];
    }
    let networks = cfg.node_port_addresses.iter().filter(of_family);
    networks.map(|n| vec![Stmt::Address(Side::Destination, Sense::Is, *n), local.clone()]).collect()
}

/// All that does not depend on services.
fn skeleton(family: Family, cfg: &ProxyConfig) -> Table {
    use Field::{DestinationAddress, DestinationPort, Protocol, SourceAddress};
    let mut t = Table::default();
    let ip_key = || vec![FieldType::Address, FieldType::Protocol, FieldType::Port];
    let port_key = || vec![FieldType::Protocol, FieldType::Port];
    for name in [SERVICE_IPS, NO_ENDPOINT_IPS, FIREWALL_IPS] {
        t.sets.insert(name.into(), Set::new(ip_key(), SetData::Verdict));
    }
    for name in [NODE_PORTS, NO_ENDPOINT_NODE_PORTS] {
        t.sets.insert(name.into(), Set::new(port_key(), SetData::Verdict));
    }
    t.sets.insert(CLUSTER_IPS.into(), Set::new(vec![FieldType::Address], SetData::None));
    t.sets.insert(HAIRPINS.into(), Set::new(vec![FieldType::Address, FieldType::Address], SetData::None));

    let by_ip = |map: &str| {
        Rule::new(vec![Stmt::VerdictMap(vec![DestinationAddress, Protocol, DestinationPort], map.into())])
    };
    let by_port = |map: &str| -> Vec<Rule> {
        let lookup = Stmt::VerdictMap(vec![Protocol, DestinationPort], map.into());
        let alternatives = node_port_destinations(family, cfg).into_iter();
        alternatives
            .map(|mut when| {
                when.push(lookup.clone());
                when.into()
            })
            .collect()
    };
    let mut services = vec![by_ip(SERVICE_IPS)];
    services.extend(by_port(NODE_PORTS));
    let mut checks = vec![by_ip(FIREWALL_IPS), by_ip(NO_ENDPOINT_IPS)];
    checks.extend(by_port(NO_ENDPOINT_NODE_PORTS));
    let unused = vec![
        Stmt::InSet(Sense::Is, vec![DestinationAddress], CLUSTER_IPS.into()),
        Stmt::Verdict(goto(REJECT)),
    ];
    for (name, rules) in [
        (SERVICES, services),
        (CHECKS, checks),
        (UNUSED_PORTS, vec![unused.into()]),
        (REJECT, vec![vec![Stmt::Protocol(6), Stmt::Reset].into(), vec![Stmt::Reject].into()]),
    ] {
        t.chains.insert(name.into(), Chain { base: None, rules });
    }
    let translate = || vec![vec![jump(SERVICES)].into()];
    let new = |chain: &str| vec![vec![Stmt::NewConnection, jump(chain)].into()];
    let marked =
        vec![Stmt::Mark(Sense::Is, MASQUERADE_MARK), Stmt::ClearMark(MASQUERADE_MARK), Stmt::Masquerade];
    let to_itself = vec![
        Stmt::Translated(Sense::Is),
        Stmt::InSet(Sense::Is, vec![SourceAddress, DestinationAddress], HAIRPINS.into()),
        Stmt::Masquerade,
    ];
    use ChainKind::{Filter, Nat};
    for (name, chain) in [
        // Before translation: refuse what has no endpoint, drop what a load balancer's ranges exclude.
        ("filter-prerouting", base(Filter, Hook::Prerouting, -110, new(CHECKS))),
        ("filter-output", base(Filter, Hook::Output, -110, new(CHECKS))),
        ("nat-prerouting", base(Nat, Hook::Prerouting, -100, translate())),
        ("nat-output", base(Nat, Hook::Output, -100, translate())),
        // After translation: what still goes to a cluster IP goes to a port that no service has.
        ("filter-forward", base(Filter, Hook::Forward, 0, new(UNUSED_PORTS))),
        ("filter-output-translated", base(Filter, Hook::Output, 0, new(UNUSED_PORTS))),
        ("nat-postrouting", base(Nat, Hook::Postrouting, 100, vec![marked.into(), to_itself.into()])),
    ] {
        t.chains.insert(name.into(), chain);
    }
    t
}

struct Planner<'a> {
    family: Family,
    cfg: &'a ProxyConfig,
    table: Table,
}

impl Planner<'_> {
    fn put(&mut self, set: &str, key: Key, data: Data) {
        if let Some(set) = self.table.sets.get_mut(set) {
            set.insert(key, data);
        }
    }

    fn ours(&self, ips: &[IpAddr]) -> Vec<IpAddr> {
        ips.iter().copied().filter(|ip| ip.is_ipv4() == (self.family == Family::Ip)).collect()
    }

    fn service(&mut self, s: &ServicePort) {
        let v4 = self.family == Family::Ip;
        let (cluster, local) = (s.eligible(Reach::Cluster, v4), s.eligible(Reach::Local, v4));
        let outside: Vec<IpAddr> =
            self.ours(&s.external_ips).into_iter().chain(self.ours(&s.balancer_ips)).collect();
        let has_outside = !outside.is_empty() || s.node_port.is_some();
        for ip in self.ours(&s.cluster_ips) {
            self.put(CLUSTER_IPS, Key::new().address(ip), Data::None);
        }
        let needs_local =
            !local.is_empty() && (s.internal == Reach::Local || (has_outside && s.external == Reach::Local));
        let needs_cluster = !cluster.is_empty() && (s.internal == Reach::Cluster || has_outside);
        let cluster_chain = needs_cluster.then(|| self.endpoints("cluster", s, &cluster));
        let local_chain = needs_local.then(|| self.endpoints("local", s, &local));

        let internal = match s.internal {
            Reach::Cluster => cluster_chain.as_deref(),
            Reach::Local => local_chain.as_deref(),
        };
        for ip in self.ours(&s.cluster_ips) {
            let key = Key::new().address(ip).protocol(s.protocol).port(s.port);
            match internal {
                Some(chain) => self.put(SERVICE_IPS, key, Data::Verdict(goto(chain))),
                // Endpoints elsewhere that policy forbids: drop. None at all: refuse.
                None if !cluster.is_empty() => self.put(NO_ENDPOINT_IPS, key, Data::Verdict(Verdict::Drop)),
                None => self.put(NO_ENDPOINT_IPS, key, Data::Verdict(goto(REJECT))),
            }
        }
        if has_outside {
            self.outside(s, &outside, cluster_chain.as_deref(), local_chain.as_deref());
        }
    }

    /// External IPs, load balancer IPs and the node port.
    fn outside(&mut self, s: &ServicePort, ips: &[IpAddr], cluster: Option<&str>, local: Option<&str>) {
        let node_port = s.node_port.map(|p| Key::new().protocol(s.protocol).port(p));
        let key = |ip: &IpAddr| Key::new().address(*ip).protocol(s.protocol).port(s.port);
        let Some(cluster) = cluster else {
            for ip in ips {
                self.put(NO_ENDPOINT_IPS, key(ip), Data::Verdict(goto(REJECT)));
            }
            if let Some(port) = node_port {
                self.put(NO_ENDPOINT_NODE_PORTS, port, Data::Verdict(goto(REJECT)));
            }
            return;
        };
        let chain = name_of("external", &s.name);
        let mut rules: Vec<Rule> = Vec::new();
        if s.external == Reach::Cluster {
            rules.push(vec![Stmt::SetMark(MASQUERADE_MARK), Stmt::Verdict(goto(cluster))].into());
        } else {
            // Pods and this host are inside: the policy for traffic from outside does not bind them.
            for net in self.pod_networks() {
                rules.push(
                    vec![Stmt::Address(Side::Source, Sense::Is, net), Stmt::Verdict(goto(cluster))].into(),
                );
            }
            let from_host = vec![
                Stmt::LocalAddress(Side::Source, Sense::Is),
                Stmt::SetMark(MASQUERADE_MARK),
                Stmt::Verdict(goto(cluster)),
            ];
            rules.push(from_host.into());
            let rest = local.map_or(Verdict::Drop, goto);
            // Translation chains cannot drop: without a local endpoint the packet stays untranslated here and
            // is dropped by the host, which does not listen there.
            if rest != Verdict::Drop {
                rules.push(vec![Stmt::Verdict(rest)].into());
            }
        }
        self.table.chains.insert(chain.clone(), Chain { base: None, rules });
        for ip in ips {
            self.put(SERVICE_IPS, key(ip), Data::Verdict(goto(&chain)));
        }
        if let Some(port) = node_port {
            self.put(NODE_PORTS, port, Data::Verdict(goto(&chain)));
        }
        self.no_local_endpoint(s, ips, local);
        self.firewall(s);
    }

    /// Traffic from outside under policy Local on a node without an endpoint is dropped, so that a load balancer's
    /// client retries elsewhere instead of getting a refusal.
    fn no_local_endpoint(&mut self, s: &ServicePort, ips: &[IpAddr], local: Option<&str>) {
        if s.external == Reach::Cluster || local.is_some() {
            return;
        }
        let chain = name_of("drop", &s.name);
        let mut rules: Vec<Rule> = Vec::new();
        for net in self.pod_networks() {
            rules.push(
                vec![Stmt::Address(Side::Source, Sense::Is, net), Stmt::Verdict(Verdict::Return)].into(),
            );
        }
        rules.push(vec![Stmt::LocalAddress(Side::Source, Sense::Is), Stmt::Verdict(Verdict::Return)].into());
        rules.push(vec![Stmt::Verdict(Verdict::Drop)].into());
        self.table.chains.insert(chain.clone(), Chain { base: None, rules });
        for ip in ips {
            let key = Key::new().address(*ip).protocol(s.protocol).port(s.port);
            self.put(NO_ENDPOINT_IPS, key, Data::Verdict(goto(&chain)));
        }
        if let Some(port) = s.node_port {
            let key = Key::new().protocol(s.protocol).port(port);
            self.put(NO_ENDPOINT_NODE_PORTS, key, Data::Verdict(goto(&chain)));
        }
    }

    /// Source ranges of load balancer IPs.
    fn firewall(&mut self, s: &ServicePort) {
        let ips = self.ours(&s.balancer_ips);
        if s.source_ranges.is_empty() || ips.is_empty() {
            return;
        }
        let chain = name_of("firewall", &s.name);
        let v4 = self.family == Family::Ip;
        let mut rules: Vec<Rule> = Vec::new();
        for range in s.source_ranges.iter().filter(|r| r.is_ipv4() == v4) {
            rules.push(
                vec![Stmt::Address(Side::Source, Sense::Is, *range), Stmt::Verdict(Verdict::Return)].into(),
            );
        }
        rules.push(vec![Stmt::Verdict(Verdict::Drop)].into());
        self.table.chains.insert(chain.clone(), Chain { base: None, rules });
        for ip in ips {
            let key = Key::new().address(ip).protocol(s.protocol).port(s.port);
            self.put(FIREWALL_IPS, key, Data::Verdict(Verdict::Jump(chain.clone())));
        }
    }

    fn pod_networks(&self) -> Vec<IpNetwork> {
        let v4 = self.family == Family::Ip;
        self.cfg.cluster_cidrs.iter().copied().filter(|n| n.is_ipv4() == v4).collect()
    }

    /// The chain that draws one of the endpoints, and its maps.
    fn endpoints(&mut self, kind: &str, s: &ServicePort, endpoints: &[&Endpoint]) -> String {
        let chain = name_of(kind, &s.name);
        let value = || SetData::Value(vec![FieldType::Address, FieldType::Port]);
        let mut map = Set::new(vec![FieldType::Number], value());
        for (i, e) in (0u32..).zip(endpoints) {
            map.insert(Key::new().number(i), Data::Value(Key::new().address(e.address).port(e.port).bytes()));
            self.put(HAIRPINS, Key::new().address(e.address).address(e.address), Data::None);
        }
        let mut rules: Vec<Rule> = Vec::new();
        // From outside the pod network to a cluster IP: the reply must come back through here.
        for ip in self.ours(&s.cluster_ips) {
            let nets = self.pod_networks();
            if nets.is_empty() {
                continue;
            }
            let mut when = vec![Stmt::Address(Side::Destination, Sense::Is, ip.into())];
            when.extend(nets.into_iter().map(|n| Stmt::Address(Side::Source, Sense::IsNot, n)));
            when.push(Stmt::SetMark(MASQUERADE_MARK));
            rules.push(when.into());
        }
        let count = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
        let mut draw = vec![Stmt::ResolveRandom(count, chain.clone())];
        if let Some(seconds) = s.affinity {
            let memory = name_of(&format!("affinity-{kind}"), &s.name);
            let mut set = Set::new(vec![FieldType::Address], value());
            set.timeout_seconds = Some(seconds);
            self.table.sets.insert(memory.clone(), set);
            let client = || vec![Field::SourceAddress];
            let again = vec![
                Stmt::Resolve(client(), memory.clone()),
                Stmt::Remember(client(), memory.clone()),
                Stmt::Dnat,
            ];
            rules.push(again.into());
            draw.push(Stmt::Remember(client(), memory));
        }
        draw.push(Stmt::Dnat);
        rules.push(draw.into());
        self.table.sets.insert(chain.clone(), map);
        self.table.chains.insert(chain.clone(), Chain { base: None, rules });
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::services;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn config() -> ProxyConfig {
        ProxyConfig {
            node_name: "n1".into(),
            cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
            node_port_addresses: Vec::new(),
            ledger: "/nowhere".into(),
        }
    }

    /// The IPv4 table for one service with endpoints of (address, node, condition).
    fn table(spec: Value, extra: Value, endpoints: &[(&str, &str, &str)]) -> Table {
        let mut service = json!({"metadata": {"name": "web", "namespace": "d"}, "spec": {
            "clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"], "ports": [{"port": 80, "nodePort": 30080}]}});
        service["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        for (k, v) in extra.as_object().unwrap() {
            service[k] = v.clone();
        }
        let list: Vec<Value> = endpoints
            .iter()
            .map(|(ip, node, state)| {
                let conditions = match *state {
                    "ready" => json!({"ready": true}),
                    "draining" => json!({"ready": false, "serving": true, "terminating": true}),
                    _ => json!({"ready": false, "serving": false}),
                };
                json!({"addresses": [ip], "nodeName": node, "conditions": conditions})
            })
            .collect();
        let slice = json!({"metadata": {"name": "s", "namespace": "d", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": list, "ports": [{"name": "", "port": 8080}]});
        let service = Arc::new(serde_json::from_value(service).unwrap());
        let slice = Arc::new(serde_json::from_value(slice).unwrap());
        plan(&services(&[service], &[slice], "n1"), &config()).remove(&Family::Ip).unwrap()
    }

    /// Endpoint addresses that the chain of a kind draws from.
    fn drawn(t: &Table, kind: &str) -> Vec<String> {
        let prefix = format!("{kind}-");
        let found = t.sets.iter().filter(|(n, s)| n.starts_with(&prefix) && s.key == [FieldType::Number]);
        let values = found.flat_map(|(_, s)| s.elements.values());
        values
            .map(|d| match d {
                Data::Value(v) => {
                    format!("{}.{}.{}.{}:{}", v[0], v[1], v[2], v[3], u16::from_be_bytes([v[4], v[5]]))
                }
                other => format!("{other:?}"),
            })
            .collect()
    }

    /// Kind of the chain that the only element of a map leads to.
    fn leads(t: &Table, map: &str) -> Vec<String> {
        let kind = |c: &str| c.split('-').next().unwrap_or_default().to_owned();
        t.sets[map]
            .elements
            .values()
            .map(|d| match d {
                Data::Verdict(Verdict::Goto(c) | Verdict::Jump(c)) => kind(c),
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn endpoints_by_condition_and_policy() {
        let (ready, draining, dead) =
            (("10.42.0.2", "n1", "ready"), ("10.42.0.3", "n1", "draining"), ("10.42.0.4", "n1", "dead"));
        let far = ("10.42.1.9", "n2", "ready");
        let t = table(json!({}), json!({}), &[ready, draining, dead, far]);
        assert_eq!(drawn(&t, "cluster"), ["10.42.0.2:8080", "10.42.1.9:8080"]);
        assert_eq!(leads(&t, SERVICE_IPS), ["cluster"]);
        assert!(t.sets[NODE_PORTS].elements.is_empty(), "a ClusterIP service has no node port");
        let t = table(json!({}), json!({}), &[draining, dead]);
        assert_eq!(drawn(&t, "cluster"), ["10.42.0.3:8080"], "better one that goes than none");
        let t = table(json!({"internalTrafficPolicy": "Local"}), json!({}), &[ready, far]);
        assert_eq!((drawn(&t, "local"), drawn(&t, "cluster").len()), (vec!["10.42.0.2:8080".to_owned()], 0));
        assert_eq!(leads(&t, SERVICE_IPS), ["local"]);
        let t = table(json!({"type": "NodePort"}), json!({}), &[dead]);
        assert_eq!(
            (leads(&t, NO_ENDPOINT_IPS), leads(&t, NO_ENDPOINT_NODE_PORTS)),
            (vec!["reject".to_owned()], vec!["reject".to_owned()])
        );
        let t =
            table(json!({"type": "NodePort", "externalTrafficPolicy": "Local"}), json!({}), &[ready, far]);
        assert_eq!(
            (leads(&t, NODE_PORTS), drawn(&t, "local")),
            (vec!["external".to_owned()], vec!["10.42.0.2:8080".to_owned()])
        );
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let labels = |l: &str| json!({"metadata": {"name": "web", "namespace": "d", "labels": {l: "x"}}});
        let ready = [("10.42.0.2", "n1", "ready")];
        for (spec, extra) in [
            (json!({}), labels("service.kubernetes.io/service-proxy-name")),
            (json!({"clusterIP": "None", "clusterIPs": ["None"]}), json!({})),
            (json!({"type": "ExternalName", "clusterIP": "", "clusterIPs": []}), json!({})),
        ] {
            let t = table(spec.clone(), extra, &ready);
            assert_eq!(t, skeleton(Family::Ip, &config()), "{spec}");
        }
    }

    #[test]
    fn load_balancer_addresses_and_source_ranges() {
        let ingress = |mode: &str| json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.5", "ipMode": mode}]}}});
        let spec = json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["198.51.100.0/24"]});
        let ready = [("10.42.0.2", "n1", "ready")];
        let t = table(spec.clone(), ingress("VIP"), &ready);
        assert_eq!(
            (t.sets[SERVICE_IPS].elements.len(), leads(&t, FIREWALL_IPS)),
            (2, vec!["firewall".to_owned()])
        );
        let chain = t.chains.iter().find(|(n, _)| n.starts_with("firewall-")).unwrap().1;
        let text: Vec<String> = chain
            .rules
            .iter()
            .map(|r| r.stmts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(text, ["saddr 198.51.100.0/24 return", "drop"]);
        let t = table(spec, ingress("Proxy"), &ready);
        assert_eq!(t.sets[SERVICE_IPS].elements.len(), 1, "the balancer itself answers there");
    }

    #[test]
    fn node_ports_on_chosen_addresses() {
        let cfg = ProxyConfig { node_port_addresses: vec!["192.168.0.0/16".parse().unwrap()], ..config() };
        let t = skeleton(Family::Ip, &cfg);
        let text: Vec<String> = t.chains[SERVICES].rules[1].stmts.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            ["daddr 192.168.0.0/16", "fib daddr type local", "meta l4proto . th dport vmap @node-ports"]
        );
    }
}
