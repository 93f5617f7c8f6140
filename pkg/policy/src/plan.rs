//! What the table should be. Entry point: [`plan`]. Pure.
//!
//! Two chains at the forward hook, one for each direction, because an accepted packet leaves its chain but must
//! still pass the other. Each finds the isolated pod by its address in a map, which leads to the chain of the
//! set of policies that select the pod: so pods that are alike share a chain, and what a packet costs does not
//! grow with the number of pods. A policy is a chain of its rules; the last word of a set of policies is drop.
//!
//! Only what is forwarded is judged: what this host and its pods say to each other always passes, as the API
//! promises (a node can always probe its pods). Replies pass, as do errors about what passed. Packets in the direction
//! in which a connection was opened are judged one by one, so a new policy ends connections that it does not allow.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use knarr_client::Key as Name;
use knarr_machinery::labels::Selector;
use knarr_netlink::nft::{
    Base, Chain, ChainKind, Data, Family, Field, FieldType, Hook, Key, Rule, Sense, Set, SetData, Side, Stmt,
    Table, Verdict, name_of,
};

use crate::PolicyConfig;
use crate::model::{self, Cluster, Peer, PodFacts, Policy, Ports};

/// Name of the tables.
pub const TABLE: &str = "knarr-policy";
/// Pairs of a pod's address with itself: nobody can keep a pod from itself.
const OWN: &str = "own";

/// Bit of the packet mark that says: the IP hooks have seen it.
const SEEN: u32 = 0x2000_0000;

/// Which way packets go, as seen by the isolated pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// The map from an isolated pod's address to its chain.
    fn pods(self) -> &'static str {
        match self {
            Self::Ingress => "ingress-pods",
            Self::Egress => "egress-pods",
        }
    }

    fn own(self) -> Field {
        match self {
            Self::Ingress => Field::DestinationAddress,
            Self::Egress => Field::SourceAddress,
        }
    }

    fn peer(self) -> (Field, Side) {
        match self {
            Self::Ingress => (Field::SourceAddress, Side::Source),
            Self::Egress => (Field::DestinationAddress, Side::Destination),
        }
    }

    fn rules(self, policy: &Policy) -> Option<&Vec<model::Rule>> {
        match self {
            Self::Ingress => policy.ingress.as_ref(),
            Self::Egress => policy.egress.as_ref(),
        }
    }
}

/// The tables for the pods of a node, by family; none if no policy selects one of them.
pub fn plan(cluster: &Cluster, cfg: &PolicyConfig) -> BTreeMap<Family, Table> {
    let (mut tables, own) = (BTreeMap::new(), cluster.pods_on(&cfg.node_name));
    for family in [Family::Ip, Family::Ip6] {
        let mut planner =
            Planner { cluster, own: &own, family, table: skeleton(&cfg.bridge), selections: BTreeMap::new() };
        let mut isolated = false;
        for (namespace, pod) in &own {
            isolated |= planner.pod(namespace, pod);
        }
        if isolated {
            tables.insert(family, planner.table);
        }
    }
    if !tables.is_empty() {
        tables.insert(Family::Bridge, guard(&cfg.ports));
    }
    tables
}

/// Pods of one node speak through this host. A frame that one of them addresses straight to another's port would
/// meet no rule, so it is dropped; unless the kernel shows bridged packets to the IP hooks too (`br_netfilter`),
/// which is then what services between pods of one node go through.
fn guard(ports: &str) -> Table {
    let rule = vec![
        Stmt::FromInterface(ports.to_owned()),
        Stmt::Mark(Sense::IsNot, SEEN),
        Stmt::Verdict(Verdict::Drop),
    ];
    let base = Base { kind: ChainKind::Filter, hook: Hook::Forward, priority: -200 };
    let chain = Chain { base: Some(base), rules: vec![rule.into()] };
    Table { chains: [("bridged".to_owned(), chain)].into(), ..Table::default() }
}

/// A text that no other selector has.
fn text_of(selector: &Selector) -> String {
    if selector.is_nothing() { "!".to_owned() } else { selector.to_string() }
}

fn jump(chain: &str) -> Verdict {
    Verdict::Jump(chain.into())
}

/// All that does not depend on pods.
fn skeleton(bridge: &str) -> Table {
    let mut t = Table::default();
    let seen = vec![Stmt::FromInterface(bridge.to_owned()), Stmt::SetMark(SEEN)];
    let base = Base { kind: ChainKind::Filter, hook: Hook::Prerouting, priority: -200 };
    t.chains.insert("seen".into(), Chain { base: Some(base), rules: vec![seen.into()] });
    let pair = vec![FieldType::Address, FieldType::Address];
    t.sets.insert(OWN.into(), Set::new(pair, SetData::None));
    for direction in Direction::BOTH {
        let pods = Set::new(vec![FieldType::Address], SetData::Verdict);
        t.sets.insert(direction.pods().into(), pods);
        let accept = || Stmt::Verdict(Verdict::Accept);
        let itself = vec![Field::SourceAddress, Field::DestinationAddress];
        let rules: Vec<Rule> = vec![
            vec![Stmt::Reply, accept()].into(),
            vec![Stmt::Related, accept()].into(),
            vec![Stmt::InSet(Sense::Is, itself, OWN.into()), accept()].into(),
            vec![Stmt::VerdictMap(vec![direction.own()], direction.pods().into())].into(),
        ];
        let base = Base { kind: ChainKind::Filter, hook: Hook::Forward, priority: 0 };
        t.chains.insert(direction.name().into(), Chain { base: Some(base), rules });
    }
    t
}

struct Planner<'a> {
    cluster: &'a Cluster,
    /// This node's pods, with their namespaces.
    own: &'a [(&'a str, &'a PodFacts)],
    family: Family,
    table: Table,
    /// What the sets of selected pods are of, by name of the set.
    selections: BTreeMap<String, String>,
}

impl<'a> Planner<'a> {
    fn put(&mut self, set: &str, key: Key, data: Data) {
        if let Some(set) = self.table.sets.get_mut(set) {
            set.insert(key, data);
        }
    }

    fn of_family(&self, pod: &'a PodFacts) -> impl Iterator<Item = IpAddr> + use<'a> {
        let family = self.family;
        pod.addresses.iter().copied().filter(move |ip| Family::of(*ip) == family)
    }

    /// Isolates a pod of this node; false if no policy selects it or it has no address of this family.
    fn pod(&mut self, namespace: &str, pod: &'a PodFacts) -> bool {
        let addresses: Vec<IpAddr> = self.of_family(pod).collect();
        if addresses.is_empty() {
            return false;
        }
        let policies: Vec<(&Name, &Policy)> = self.cluster.policies_of(namespace, &pod.labels).collect();
        let mut isolated = false;
        for direction in Direction::BOTH {
            let own: Vec<_> =
                policies.iter().filter(|(_, p)| direction.rules(p).is_some()).copied().collect();
            if own.is_empty() {
                continue;
            }
            isolated = true;
            let chain = self.set_of_policies(direction, &own);
            for ip in &addresses {
                let verdict = Data::Verdict(Verdict::Goto(chain.clone()));
                self.put(direction.pods(), Key::new().address(*ip), verdict);
                self.put(OWN, Key::new().address(*ip).address(*ip), Data::None);
            }
        }
        isolated
    }

    /// The chain of pods that these policies select.
    fn set_of_policies(&mut self, direction: Direction, policies: &[(&Name, &Policy)]) -> String {
        let names: Vec<String> = policies.iter().map(|((ns, name), _)| format!("{ns}/{name}")).collect();
        let chain = name_of(direction.name(), &names.join(","));
        if self.table.chains.contains_key(&chain) {
            return chain;
        }
        let mut rules: Vec<Rule> = Vec::new();
        for ((namespace, name), policy) in policies {
            let own = self.policy(direction, namespace, name, policy);
            rules.push(vec![Stmt::Verdict(jump(&own))].into());
        }
        rules.push(vec![Stmt::Verdict(Verdict::Drop)].into());
        self.table.chains.insert(chain.clone(), Chain { base: None, rules });
        chain
    }

    /// The chain of a policy's rules.
    fn policy(&mut self, direction: Direction, namespace: &str, name: &str, policy: &Policy) -> String {
        let chain = name_of(&format!("policy-{}", direction.name()), &format!("{namespace}/{name}"));
        if self.table.chains.contains_key(&chain) {
            return chain;
        }
        let mut out: Vec<Rule> = Vec::new();
        for (i, rule) in direction.rules(policy).into_iter().flatten().enumerate() {
            let allowed = match &rule.ports {
                None => Verdict::Accept,
                Some(ports) => {
                    let own =
                        name_of(&format!("ports-{}-{i}", direction.name()), &format!("{namespace}/{name}"));
                    let rules = self.ports(direction, ports);
                    self.table.chains.insert(own.clone(), Chain { base: None, rules });
                    jump(&own)
                }
            };
            let Some(peers) = &rule.peers else {
                out.push(vec![Stmt::Verdict(allowed)].into());
                continue;
            };
            for (j, peer) in peers.iter().enumerate() {
                let Some(mut when) = self.peer(direction, namespace, peer) else { continue };
                when.push(Stmt::Verdict(match peer {
                    Peer::Block(_, except) if !except.is_empty() => {
                        let kind = format!("block-{}-{i}-{j}", direction.name());
                        self.block(
                            direction,
                            name_of(&kind, &format!("{namespace}/{name}")),
                            except,
                            &allowed,
                        )
                    }
                    _ => allowed.clone(),
                }));
                out.push(when.into());
            }
        }
        self.table.chains.insert(chain.clone(), Chain { base: None, rules: out });
        chain
    }

    /// Conditions under which the other side of a packet is this peer; `None` if it never is in this family.
    fn peer(&mut self, direction: Direction, namespace: &str, peer: &Peer) -> Option<Vec<Stmt>> {
        let (field, side) = direction.peer();
        let in_set = |set| vec![Stmt::InSet(Sense::Is, vec![field], set)];
        match peer {
            Peer::Own(pods) => {
                let text = format!("{namespace} {}", text_of(pods));
                Some(in_set(self.pods_of(&[namespace], &text, pods)))
            }
            Peer::Of(namespaces, pods) => {
                let cluster = self.cluster;
                let selected = cluster.namespaces.iter().filter(|(_, labels)| namespaces.matches(labels));
                let selected: Vec<&str> = selected.map(|(name, _)| name.as_str()).collect();
                let text = format!("[{}] {}", text_of(namespaces), text_of(pods));
                Some(in_set(self.pods_of(&selected, &text, pods)))
            }
            Peer::Block(network, _) => {
                let fits = Family::of(network.network()) == self.family;
                fits.then(|| vec![Stmt::Address(side, Sense::Is, *network)])
            }
        }
    }

    /// The chain that lets through what is in none of these networks. A rule each: the kernel takes no long ones.
    fn block(
        &mut self,
        direction: Direction,
        chain: String,
        except: &[IpNetwork],
        allowed: &Verdict,
    ) -> Verdict {
        let (_, side) = direction.peer();
        let outside = except.iter().filter(|n| Family::of(n.network()) == self.family);
        let back = || Stmt::Verdict(Verdict::Return);
        let mut rules: Vec<Rule> =
            outside.map(|n| vec![Stmt::Address(side, Sense::Is, *n), back()].into()).collect();
        rules.push(vec![Stmt::Verdict(allowed.clone())].into());
        self.table.chains.insert(chain.clone(), Chain { base: None, rules });
        Verdict::Jump(chain)
    }

    /// The set of the addresses of selected pods, which all rules that say `text` share.
    fn pods_of(&mut self, namespaces: &[&str], text: &str, selector: &Selector) -> String {
        let name = match self.name_for(text) {
            Ok(known) => return known,
            Err(new) => new,
        };
        let cluster = self.cluster;
        let mut set = Set::new(vec![FieldType::Address], SetData::None);
        for pod in namespaces.iter().flat_map(|namespace| cluster.pods_of(namespace)) {
            if selector.matches(&pod.labels) {
                self.of_family(pod).for_each(|ip| set.insert(Key::new().address(ip), Data::None));
            }
        }
        self.table.sets.insert(name.clone(), set);
        name
    }

    /// The name of the set for `text`: of one that is there, or (`Err`) a new one. Whoever finds a text of the same
    /// digest as another's gets a set of his own.
    fn name_for(&mut self, text: &str) -> Result<String, String> {
        let mut salted = text.to_owned();
        loop {
            let name = name_of("pods", &salted);
            match self.selections.get(&name) {
                None => {
                    self.selections.insert(name.clone(), text.to_owned());
                    return Err(name);
                }
                Some(known) if known == text => return Ok(name),
                Some(_) => salted.push('+'),
            }
        }
    }

    /// Rules that accept what goes to these ports.
    fn ports(&mut self, direction: Direction, ports: &[Ports]) -> Vec<Rule> {
        let accept = Stmt::Verdict(Verdict::Accept);
        let of = |ports: &Ports| match ports {
            Ports::All(protocol) => vec![Stmt::Protocol(*protocol)],
            Ports::Range(protocol, first, last) if first == last => {
                vec![Stmt::Protocol(*protocol), Stmt::Port(*first)]
            }
            Ports::Range(protocol, first, last) => {
                vec![Stmt::Protocol(*protocol), Stmt::Ports(*first, *last)]
            }
            Ports::Named(protocol, name) => {
                let key = vec![Field::DestinationAddress, Field::Protocol, Field::DestinationPort];
                vec![Stmt::InSet(Sense::Is, key, self.named(direction, *protocol, name))]
            }
        };
        ports.iter().map(of).map(|when| [when, vec![accept.clone()]].concat().into()).collect()
    }

    /// The set of addresses and ports that destination pods call so: pods of this node for what comes in, all
    /// pods for what goes out.
    fn named(&mut self, direction: Direction, protocol: model::Protocol, name: &str) -> String {
        let set_name = name_of(&format!("named-{}", direction.name()), &format!("{protocol}/{name}"));
        if self.table.sets.contains_key(&set_name) {
            return set_name;
        }
        let key = vec![FieldType::Address, FieldType::Protocol, FieldType::Port];
        let mut set = Set::new(key, SetData::None);
        let pods: Vec<&PodFacts> = match direction {
            Direction::Ingress => self.own.iter().map(|(_, pod)| *pod).collect(),
            Direction::Egress => self.cluster.pods.values().collect(),
        };
        for pod in pods {
            let called = pod.ports.iter().filter(|(n, p, _)| n == name && *p == protocol);
            let numbers: BTreeSet<u16> = called.map(|(_, _, number)| *number).collect();
            for (ip, number) in self.of_family(pod).flat_map(|ip| numbers.iter().map(move |n| (ip, *n))) {
                set.insert(Key::new().address(ip).protocol(protocol).port(number), Data::None);
            }
        }
        self.table.sets.insert(set_name.clone(), set);
        set_name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{addresses, pod, policy};
    use serde_json::{Value, json};

    /// What the kernel does with a forwarded packet, by the model of the table.
    struct Packet {
        from: IpAddr,
        to: IpAddr,
        protocol: u8,
        port: u16,
        reply: bool,
    }

    impl Packet {
        fn field(&self, fields: &[Field]) -> Key {
            fields.iter().fold(Key::new(), |key, field| match field {
                Field::SourceAddress => key.address(self.from),
                Field::DestinationAddress => key.address(self.to),
                Field::Protocol => key.protocol(self.protocol),
                Field::DestinationPort => key.port(self.port),
            })
        }

        /// Whether the statement lets the packet go on in the rule, or where it sends it.
        fn meets(&self, table: &Table, stmt: &Stmt) -> Result<bool, Verdict> {
            let is = |sense: &Sense, found: bool| (*sense == Sense::Is) == found;
            Ok(match stmt {
                Stmt::Address(Side::Source, sense, net) => is(sense, net.contains(self.from)),
                Stmt::Address(Side::Destination, sense, net) => is(sense, net.contains(self.to)),
                Stmt::Protocol(p) => *p == self.protocol,
                Stmt::Port(p) => *p == self.port,
                Stmt::Ports(first, last) => (*first..=*last).contains(&self.port),
                Stmt::Reply => self.reply,
                Stmt::Related => false,
                Stmt::InSet(sense, fields, set) => {
                    is(sense, table.sets[set].elements.contains_key(&self.field(fields).bytes()))
                }
                Stmt::VerdictMap(fields, set) => {
                    match table.sets[set].elements.get(&self.field(fields).bytes()) {
                        Some(Data::Verdict(v)) => return Err(v.clone()),
                        _ => false,
                    }
                }
                Stmt::Verdict(v) => return Err(v.clone()),
                other => panic!("{other} is not known here"),
            })
        }

        /// `Some` if the chain decides.
        fn walk(&self, table: &Table, chain: &str) -> Option<bool> {
            for rule in &table.chains[chain].rules {
                let mut stmts = rule.stmts.iter().map(|stmt| self.meets(table, stmt));
                match stmts.find(|met| *met != Ok(true)) {
                    Some(Err(Verdict::Accept)) => return Some(true),
                    Some(Err(Verdict::Drop)) => return Some(false),
                    Some(Err(Verdict::Jump(to))) => {
                        if let Some(decided) = self.walk(table, &to) {
                            return Some(decided);
                        }
                    }
                    Some(Err(Verdict::Goto(to))) => return self.walk(table, &to),
                    Some(Err(Verdict::Return)) => return None,
                    _ => {}
                }
            }
            None
        }

        fn passes(&self, table: Option<&Table>) -> bool {
            let Some(table) = table else { return true };
            let forward = |c: &Chain| c.base.is_some_and(|b| b.hook == Hook::Forward);
            let bases: Vec<_> = table.chains.iter().filter(|(_, c)| forward(c)).collect();
            assert_eq!(bases.len(), 2);
            bases.iter().all(|(name, _)| self.walk(table, name).unwrap_or(true))
        }
    }

    /// Pods: web (a/10.42.0.2, this node), db (a/10.42.0.3, this node), far (a/10.42.1.2, another), other
    /// (b/10.42.1.3, another), host (a, on the host's network), done (a, has run its course).
    fn cluster(policies: &[Value]) -> Cluster {
        let mut cluster = Cluster::default();
        let mut add = |namespace: &str, name: &str, node: &str, ip: &str, extra: Value| {
            let mut object = json!({"metadata": {"name": name, "namespace": namespace, "uid": name, "labels": {"app": name}},
                "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [
                    {"name": "web", "containerPort": 8080}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}]},
                "status": {"podIP": ip, "podIPs": [{"ip": ip}], "phase": "Running"}});
            for part in ["spec", "status"] {
                let more = extra[part].as_object().cloned().unwrap_or_default();
                object[part].as_object_mut().unwrap().extend(more);
            }
            let object = serde_json::from_value(object).unwrap();
            if let Some(facts) = pod(&object, addresses(&object)) {
                cluster.pods.insert((namespace.into(), name.into()), facts);
            }
        };
        add("a", "web", "n1", "10.42.0.2", json!({}));
        add("a", "db", "n1", "10.42.0.3", json!({}));
        add("a", "far", "n2", "10.42.1.2", json!({}));
        add("b", "other", "n2", "10.42.1.3", json!({}));
        add("a", "host", "n1", "192.168.1.1", json!({"spec": {"hostNetwork": true}}));
        add("a", "done", "n1", "10.42.0.9", json!({"status": {"phase": "Succeeded"}}));
        for (i, spec) in policies.iter().enumerate() {
            let object = if spec.is_null() { json!({}) } else { json!({"spec": spec}) };
            let object = serde_json::from_value(object).unwrap();
            cluster.policies.insert(("a".into(), format!("p{i}")), policy(&object));
        }
        for (name, team) in [("a", "red"), ("b", "blue")] {
            cluster.namespaces.insert(name.into(), [("team".to_owned(), team.to_owned())].into());
        }
        cluster
    }

    /// Packets in words: `from>to:protocol/port`, and `<` for a reply.
    fn packet(text: &str) -> Packet {
        let ip = |name: &str| -> IpAddr {
            let known = [
                ("web", "10.42.0.2"),
                ("db", "10.42.0.3"),
                ("far", "10.42.1.2"),
                ("other", "10.42.1.3"),
                ("out", "192.0.2.7"),
                ("done", "10.42.0.9"),
            ];
            known.iter().find(|(n, _)| *n == name).map_or(name, |(_, ip)| ip).parse().unwrap()
        };
        let (ends, port) = text.split_once(':').unwrap_or((text, "tcp/80"));
        let (protocol, port) = port.split_once('/').unwrap();
        let protocol = match protocol {
            "tcp" => 6,
            "udp" => 17,
            _ => 1,
        };
        let reply = ends.contains('<');
        let (from, to) = ends.split_once(['>', '<']).unwrap();
        Packet { from: ip(from), to: ip(to), protocol, port: port.parse().unwrap(), reply }
    }

    fn config(node: &str) -> PolicyConfig {
        let text = |s: &str| s.to_owned();
        PolicyConfig {
            node_name: text(node),
            bridge: text("br0"),
            ports: text("v*"),
            ledger: "ledger".into(),
        }
    }

    /// The table of IPv4 on a node.
    fn planned(cluster: &Cluster, node: &str) -> Option<Table> {
        plan(cluster, &config(node)).remove(&Family::Ip)
    }

    fn check(policies: &[Value], pass: &[&str], drop: &[&str]) {
        let table = planned(&cluster(policies), "n1");
        for (texts, expected) in [(pass, true), (drop, false)] {
            for text in texts {
                let found = packet(text).passes(table.as_ref());
                assert_eq!(found, expected, "{text} under {}", json!(policies));
            }
        }
    }

    #[test]
    fn who_is_isolated() {
        check(&[], &["out>web", "web>out"], &[]);
        assert!(planned(&cluster(&[]), "n1").is_none(), "no table without a policy");
        let all = json!({"podSelector": {}});
        check(
            std::slice::from_ref(&all),
            &["web>out", "web<out", "out<web", "web>web", "out>10.42.0.77", "out>far"],
            &["out>web", "db>web", "far>db"],
        );
        assert!(
            plan(&cluster(std::slice::from_ref(&all)), &config("n9")).is_empty(),
            "none of its pods here"
        );
        let families: Vec<Family> = plan(&cluster(&[all]), &config("n1")).into_keys().collect();
        assert_eq!(families, [Family::Ip, Family::Bridge], "none of its pods has an address of the other");
        let web = json!({"podSelector": {"matchLabels": {"app": "web"}}});
        check(&[web], &["out>db", "web>db"], &["out>web"]);
        let out = json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"]});
        check(&[out], &["out>web", "web>web", "web<out"], &["web>out", "web>db", "web>far"]);
        let done = json!({"podSelector": {"matchLabels": {"app": "done"}}});
        check(&[done], &["out>done"], &[]);
    }

    #[test]
    fn directions_without_a_word_on_them() {
        check(
            &[json!({"podSelector": {}, "egress": [{"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}]})],
            &["web>out"],
            &["web>far", "far>web"],
        );
        check(
            &[json!({"podSelector": {}, "policyTypes": ["Ingress"], "egress": [{}]})],
            &["web>far"],
            &["far>web"],
        );
        check(&[json!({})], &["web>far"], &["far>web"]);
        check(&[Value::Null], &["web>far"], &["far>web"]);
    }

    #[test]
    fn peers() {
        let ingress = |from: Value| json!({"podSelector": {}, "ingress": [{"from": from}]});
        check(&[ingress(json!([]))], &["out>web", "other>web"], &[]);
        check(&[ingress(json!([{"podSelector": {}}]))], &["db>web", "far>web"], &["other>web", "out>web"]);
        check(
            &[ingress(json!([{"podSelector": {"matchLabels": {"app": "far"}}}]))],
            &["far>web"],
            &["db>web", "other>web"],
        );
        check(
            &[ingress(json!([{"namespaceSelector": {"matchLabels": {"team": "blue"}}}]))],
            &["other>web"],
            &["far>web", "out>web"],
        );
        let both =
            |app: &str| json!([{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": app}}}]);
        check(&[ingress(both("other"))], &["other>web"], &["far>web"]);
        check(&[ingress(both("far"))], &["far>web"], &["other>web"]);
        check(
            &[ingress(
                json!([{"ipBlock": {"cidr": "10.42.0.0/16", "except": ["10.42.1.0/24", "10.42.0.3/32"]}},
                              {"podSelector": {"matchLabels": {"app": "far"}}}]),
            )],
            &["10.42.0.7>web", "far>web"],
            &["db>web", "other>web", "out>web"],
        );
        let block = json!([{"ipBlock": {"cidr": "10.42.0.0/16", "except": ["10.42.1.0/24"]}}]);
        let ports = json!([{"port": 80}]);
        check(
            &[json!({"podSelector": {}, "ingress": [{"from": block, "ports": ports}]})],
            &["db>web:tcp/80"],
            &["db>web:tcp/81", "far>web:tcp/80", "out>web:tcp/80"],
        );
        check(&[ingress(json!([{"ipBlock": {"cidr": "2001:db8::/32"}}]))], &[], &["out>web"]);
        check(&[ingress(json!([{}]))], &[], &["out>web", "db>web"]);
        let host = json!([{"podSelector": {"matchLabels": {"app": "host"}}}]);
        check(&[ingress(host)], &[], &["192.168.1.1>web"]);
        let egress =
            |to: Value| json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": to}]});
        check(
            &[egress(
                json!([{"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "In", "values": ["blue"]}]}}]),
            )],
            &["web>other", "out>web"],
            &["web>far", "web>out"],
        );
        check(&[egress(json!([]))], &["web>out"], &[]);
    }

    #[test]
    fn ports() {
        let on = |ports: Value| json!({"podSelector": {}, "ingress": [{"ports": ports}]});
        check(
            &[on(json!([{"port": 80}]))],
            &["out>web:tcp/80"],
            &["out>web:udp/80", "out>web:tcp/81", "out>web:icmp/0"],
        );
        check(
            &[on(json!([{"protocol": "UDP", "port": 1000, "endPort": 1002}, {"port": 443}]))],
            &["out>web:udp/1000", "out>web:udp/1002", "out>web:tcp/443"],
            &["out>web:udp/999", "out>web:udp/1003", "out>web:tcp/1001"],
        );
        check(&[on(json!([{"protocol": "UDP"}]))], &["out>web:udp/7"], &["out>web:tcp/7"]);
        check(
            &[on(json!([{"port": "web"}, {"protocol": "UDP", "port": "dns"}]))],
            &["out>web:tcp/8080", "out>web:udp/53"],
            &["out>web:tcp/53", "out>web:tcp/80", "out>web:udp/8080"],
        );
        check(&[on(json!([{"port": "none"}]))], &[], &["out>web:tcp/8080"]);
        check(&[on(json!([]))], &["out>web:icmp/0"], &[]);
        let to = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [
            {"to": [{"namespaceSelector": {}}], "ports": [{"port": "web"}]},
            {"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}], "ports": [{"port": 443}]}]});
        check(&[to], &["web>other:tcp/8080", "web>out:tcp/443"], &["web>other:tcp/443", "web>out:tcp/8080"]);
    }

    #[test]
    fn policies_add_up() {
        let none = json!({"podSelector": {}});
        let some = |app: &str| {
            json!({"podSelector": {"matchLabels": {"app": "web"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": app}}}]}]})
        };
        check(&[none, some("db"), some("far")], &["db>web", "far>web"], &["far>db", "out>web"]);
        // Both ends must agree.
        let closed = json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Egress"]});
        check(&[closed.clone(), some("db")], &["db>db"], &["db>web"]);
        let open =
            json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Egress"], "egress": [{}]});
        check(&[closed, open, some("db")], &["db>web"], &["far>web"]);
    }

    #[test]
    fn pods_that_are_alike_share_chains() {
        let policies = [
            json!({"podSelector": {}}),
            json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}),
        ];
        let small = planned(&cluster(&policies), "n1").unwrap();
        let mut many = cluster(&policies);
        let web = many.pods[&("a".into(), "web".into())].clone();
        for i in 10..200u8 {
            let addresses = [IpAddr::from([10, 42, 0, i])].into();
            many.pods.insert(("a".into(), format!("w{i}")), PodFacts { addresses, ..web.clone() });
        }
        let large = planned(&many, "n1").unwrap();
        assert_eq!(large.chains, small.chains);
        assert_eq!(large.sets["ingress-pods"].elements.len(), 192);
    }

    #[test]
    fn rules_that_select_the_same_share_a_set() {
        let selected = |from: Value| {
            let spec = json!({"podSelector": {}, "ingress": [{"from": from}]});
            let mut cluster = cluster(std::slice::from_ref(&spec));
            let object = serde_json::from_value(json!({"spec": spec})).unwrap();
            cluster.policies.insert(("b".into(), "p".into()), policy(&object));
            for pod in cluster.pods.values_mut() {
                "n1".clone_into(&mut pod.node);
            }
            let table = planned(&cluster, "n1").unwrap();
            table.sets.keys().filter(|name| name.starts_with("pods-")).count()
        };
        assert_eq!(selected(json!([{"namespaceSelector": {}, "podSelector": {}}])), 1, "whoever asks");
        assert_eq!(selected(json!([{"podSelector": {}}])), 2, "each namespace has its own pods");
    }

    #[test]
    fn texts_of_the_same_digest_share_nothing() {
        let cluster = cluster(&[]);
        let mut planner = Planner {
            cluster: &cluster,
            own: &[],
            family: Family::Ip,
            table: Table::default(),
            selections: [(name_of("pods", "mine"), "another's".to_owned())].into(),
        };
        let name = planner.name_for("mine").unwrap_err();
        assert_ne!(name, name_of("pods", "mine"));
        assert_eq!(planner.name_for("mine"), Ok(name));
    }
}
