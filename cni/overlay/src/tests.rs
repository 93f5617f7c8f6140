use super::*;
use crate::backends::vxlan::DEVICE;
use knarr_netlink::{LinkChange, RouteScope};

fn peer(backend: &str, n: u8) -> Node {
    let pod_cidrs: Vec<IpNetwork> = vec![format!("10.42.{n}.0/24").parse().unwrap()];
    let vtep = super::backend(backend).unwrap().vtep(&pod_cidrs);
    Node { name: format!("n{n}"), backend: backend.into(), address: [10, 0, 0, n].into(), pod_cidrs, vtep }
}

fn here(backend: &str, n: u8) -> Here {
    let node = peer(backend, n);
    let underlay = Underlay {
        link: "eth0".into(),
        index: 4,
        mtu: 1400,
        network: IpNetwork::new(node.address, 24).unwrap(),
        tunnel_checksums: Offload::On,
    };
    Here { node, underlay }
}

fn planned(backend: &str, others: &[Node]) -> Plan {
    plan(super::backend(backend).unwrap(), &here(backend, 1), others)
}

fn text(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn the_table_is_sorted_and_refuses_by_name() {
    assert!(BACKENDS.is_sorted_by_key(|b| b.name()));
    let e = backend("ipsec").err().unwrap().to_string();
    assert_eq!(e, "network backend \"ipsec\" is not one of host-gw, none, vxlan");
}

#[test]
fn none_joins_nobody() {
    assert_eq!(planned("none", &[]), Plan::default());
    let p = planned("none", &[peer("vxlan", 2)]);
    assert!(text(&p.problems)[0].contains("node n1 cannot reach the pods of node n2"), "{p:?}");
}

#[test]
fn vxlan_has_a_device_and_three_entries_a_peer() {
    let mut quiet = peer("vxlan", 3);
    quiet.vtep = None;
    let p = planned("vxlan", &[peer("vxlan", 2), quiet]);
    let device = p.device.clone().unwrap();
    assert_eq!((device.spec.name.as_str(), device.spec.vni, device.spec.port), ("knarr.1", 1, 8472));
    assert_eq!((device.spec.mtu, device.spec.mac), (1350, [0x0a, 0x59, 10, 42, 1, 0]));
    assert_eq!(device.addresses, ["10.42.1.0/32".parse().unwrap()]);
    let mac = [0x0a, 0x59, 10, 42, 2, 0];
    let gateway: IpAddr = [10, 42, 2, 0].into();
    assert_eq!(p.forwarding, [ForwardingEntry { link: DEVICE.into(), mac, to: [10, 0, 0, 2].into() }]);
    assert_eq!(p.neighbors, [Neighbor { link: DEVICE.into(), address: gateway, mac }]);
    assert_eq!(p.routes.len(), 1, "a node that has not come up yet has none: {p:?}");
    assert_eq!((p.routes[0].gateway, p.routes[0].scope), (Some(gateway), RouteScope::OnLink));
    assert!(p.problems.is_empty());
}

#[test]
fn host_gw_names_the_nodes_that_are_not_on_the_subnet() {
    let mut far = peer("host-gw", 3);
    far.address = [10, 9, 0, 3].into();
    let p = planned("host-gw", &[peer("host-gw", 2), far]);
    assert_eq!(p.device, None);
    assert_eq!((p.routes.len(), p.routes[0].gateway), (1, Some([10, 0, 0, 2].into())));
    assert_eq!(
        text(&p.problems),
        [
            "network backend host-gw needs all nodes on one subnet: node n3 has address 10.9.0.3, which is not in \
          10.0.0.0/24 of node n1; use the backend vxlan"
        ]
    );
}

#[test]
fn peers_that_do_not_fit_are_named_and_the_rest_is_reached() {
    let mut twin = peer("vxlan", 1);
    twin.name = "twin".into();
    let mut six = peer("vxlan", 4);
    six.address = "fd00::4".parse().unwrap();
    let mut other = peer("vxlan", 5);
    other.vtep = other.vtep.map(|v| Vtep { vni: 7, ..v });
    let p = planned("vxlan", &[twin, peer("vxlan", 2), peer("host-gw", 3), six, other]);
    assert_eq!(p.routes.len(), 1);
    let all = text(&p.problems).join("\n");
    for part in [
        "twin has the pod range 10.42.1.0/24",
        "node n3 runs host-gw",
        "node n4 has address",
        "n5 has network identifier 7",
    ] {
        assert!(all.contains(part), "{part}: {all}");
    }
    assert_eq!(p.problems.len(), 4);
}

/// What is there when a plan has been performed.
fn performed(plan: &Plan) -> Present {
    Present {
        device: plan.device.as_ref().map(|d| PresentDevice {
            spec: d.spec.clone(),
            up: true,
            addresses: d.addresses.clone(),
            tx_checksum: d.tx_checksum,
        }),
        leftovers: Vec::new(),
        routes: plan.routes.clone(),
        neighbors: plan.neighbors.clone(),
        forwarding: plan.forwarding.clone(),
    }
}

fn kinds(steps: &[Step]) -> Vec<String> {
    steps.iter().map(|s| format!("{s:?}").split(['(', ' ']).next().unwrap().to_owned()).collect()
}

#[test]
fn nothing_to_do_means_nothing_is_done() {
    for backend in ["host-gw", "vxlan"] {
        let p = planned(backend, &[peer(backend, 2), peer(backend, 3)]);
        assert_eq!(steps(&p, &performed(&p)), [], "{backend}");
    }
}

#[test]
fn a_peer_comes_and_goes_alone() {
    let (one, two) =
        (planned("vxlan", &[peer("vxlan", 2)]), planned("vxlan", &[peer("vxlan", 2), peer("vxlan", 3)]));
    assert_eq!(kinds(&steps(&two, &performed(&one))), ["PutForwarding", "PutNeighbor", "PutRoute"]);
    assert_eq!(kinds(&steps(&one, &performed(&two))), ["DeleteRoute", "DeleteNeighbor", "DeleteForwarding"]);
    let mut moved = peer("vxlan", 2);
    moved.address = [10, 0, 0, 77].into();
    let p = planned("vxlan", &[moved]);
    assert_eq!(kinds(&steps(&p, &performed(&one))), ["PutForwarding"], "same hardware address, other host");
}

#[test]
fn drift_is_repaired_in_place_and_another_identity_is_replaced() {
    let p = planned("vxlan", &[peer("vxlan", 2)]);
    let mut now = performed(&p);
    let device = now.device.as_mut().unwrap();
    device.spec.mac = [2; 6];
    device.spec.mtu = 1500;
    device.addresses = vec!["10.42.9.0/32".parse().unwrap()];
    device.up = false;
    device.tx_checksum = Offload::Off;
    let todo = steps(&p, &now);
    assert_eq!(kinds(&todo), ["Change", "Change", "Change", "AddAddress", "DeleteAddress", "Change"]);
    assert_eq!(todo[0], Step::Change(DEVICE.into(), LinkChange::Mac([0x0a, 0x59, 10, 42, 1, 0])));

    let mut now = performed(&p);
    now.device.as_mut().unwrap().spec.vni = 2;
    now.leftovers = vec!["knarr.7".into()];
    assert_eq!(
        kinds(&steps(&p, &now)),
        [
            "DeleteDevice",
            "DeleteDevice",
            "AddDevice",
            "AddAddress",
            "Change",
            "PutForwarding",
            "PutNeighbor",
            "PutRoute"
        ],
        "what was on the old device went with it"
    );
}

#[test]
fn another_backend_takes_over() {
    let (tunnel, routes) = (planned("vxlan", &[peer("vxlan", 2)]), planned("host-gw", &[peer("host-gw", 2)]));
    let mut now = performed(&routes);
    assert_eq!(kinds(&steps(&tunnel, &now))[0], "AddDevice");
    now = Present { leftovers: vec![DEVICE.into()], ..Present::default() };
    assert_eq!(kinds(&steps(&routes, &now)), ["DeleteDevice", "PutRoute"]);
}

#[test]
fn checksums_by_release_and_driver() {
    let cases = [
        ("6.18.44", "virtio_net", None),
        ("5.7.0-rc1", "veth", None),
        ("5.4.0-150-generic", "virtio_net", Some(ChecksumBug::DoubleTranslation)),
        ("4.19.0", "e1000e", Some(ChecksumBug::DoubleTranslation)),
        ("6.1.0", "vmxnet3", Some(ChecksumBug::Driver("vmxnet3"))),
        ("weird", "veth", None),
    ];
    for (release, driver, want) in cases {
        assert_eq!(checksum_bug(release, driver), want, "{release} {driver}");
    }
}

#[test]
fn annotations_there_and_back() {
    let node = peer("vxlan", 2);
    let written = annotations::of(&node);
    let list: serde_json::Map<String, serde_json::Value> =
        written.iter().map(|(k, v)| ((*k).to_owned(), serde_json::json!(v))).collect();
    let mut api: k8s_openapi::api::core::v1::Node = serde_json::from_value(
        serde_json::json!({"metadata": {"name": "n2", "annotations": list}, "spec": {"podCIDR": "10.42.2.0/24"}}),
    )
    .unwrap();
    assert_eq!(annotations::read(&api), Some(node.clone()));
    assert_eq!(annotations::patch(&node, &api), None);
    let plain = Node { vtep: None, backend: "host-gw".into(), ..node };
    let patch = annotations::patch(&plain, &api).unwrap();
    assert!(patch["metadata"]["annotations"][annotations::VTEP].is_null(), "{patch}");
    api.spec = None;
    assert_eq!(annotations::read(&api), None, "no pod range yet");
}
