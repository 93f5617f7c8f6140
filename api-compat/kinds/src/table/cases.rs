//! Tables of invalid documents and their errors, for the kinds without a table of their own.

use serde_json::{Value, json};

use crate::testing::{NOW, check, check_sub, check_update, created, ctx, defaulted, kind};

fn named(mut obj: Value) -> Value {
    obj["metadata"] = json!({"name": "n", "namespace": "default"});
    obj
}

#[test]
fn services() {
    let svc = |spec: Value| named(json!({"spec": spec}));
    let d = defaulted("v1", "services", svc(json!({"ports": [{"port": 80}]})));
    assert_eq!(
        d["spec"],
        json!({"internalTrafficPolicy": "Cluster", "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
            "sessionAffinity": "None", "type": "ClusterIP"})
    );
    let cases: &[(Value, &[&str])] = &[
        (json!({"ports": [{"port": 80}]}), &[]),
        (json!({}), &["spec.ports: Required value"]),
        (json!({"type": "ExternalName"}), &["spec.externalName: Required value"]),
        (
            json!({"type": "Weird", "ports": [{"port": 80}]}),
            &[
                "spec.type: Unsupported value: \"Weird\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ],
        ),
        (
            json!({"ports": [{"port": 80}, {"port": 81}]}),
            &["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"],
        ),
        (
            json!({"ports": [{"name": "a", "port": 80}, {"name": "a", "port": 0}]}),
            &[
                "spec.ports[1].name: Duplicate value: \"a\"",
                "spec.ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[1].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            json!({"ports": [{"port": 80}], "sessionAffinity": "Nobody"}),
            &[
                "spec.sessionAffinity: Unsupported value: \"Nobody\": supported values: \"ClientIP\", \"None\"",
            ],
        ),
        (
            json!({"type": "NodePort", "clusterIP": "None", "ports": [{"port": 80}]}),
            &["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"],
        ),
    ];
    for (spec, expected) in cases {
        check("v1", "services", svc(spec.clone()), expected);
    }
    let old = svc(json!({"clusterIP": "10.0.0.1", "ports": [{"port": 80}]}));
    check_update("v1", "services", svc(json!({"ports": [{"port": 81}]})), old.clone(), &[]);
    check_update(
        "v1",
        "services",
        svc(json!({"clusterIP": "10.0.0.2", "ports": [{"port": 80}]})),
        old,
        &["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"],
    );
}

#[test]
fn service_keeps_node_ports() {
    let user = knarr_machinery::UserInfo::component("t", &[]);
    let old = defaulted(
        "v1",
        "services",
        named(json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
        "ports": [{"port": 80, "nodePort": 30000}]}})),
    );
    let mut new = defaulted(
        "v1",
        "services",
        named(json!({"spec": {"type": "NodePort", "ports": [{"port": 80}, {"name": "b", "port": 81}]}})),
    );
    kind("v1", "services").rules.prepare_update(&ctx(&user, None), &mut new, &old);
    assert_eq!(new["spec"]["ports"][0]["nodePort"], 30000);
    assert!(new["spec"]["ports"][1].get("nodePort").is_none());
    assert_eq!(new["spec"]["clusterIP"], "10.0.0.1");
    let mut plain = defaulted(
        "v1",
        "services",
        named(json!({"spec": {"type": "ClusterIP", "ports": [{"port": 80, "nodePort": 30000}]}})),
    );
    kind("v1", "services").rules.prepare_update(&ctx(&user, None), &mut plain, &old);
    assert!(plain["spec"]["ports"][0].get("nodePort").is_none());
}

#[test]
fn namespaces_and_nodes() {
    let ns = created("v1", "namespaces", json!({"metadata": {"name": "x"}}));
    assert_eq!(ns["metadata"]["labels"]["kubernetes.io/metadata.name"], "x");
    assert_eq!(ns["spec"], json!({"finalizers": ["kubernetes"]}));
    assert_eq!(ns["status"], json!({"phase": "Active"}));
    check(
        "v1",
        "nodes",
        named(
            json!({"spec": {"taints": [{"key": "a", "effect": "Maybe"}, {"key": "b", "effect": "NoSchedule"}, {"key": "b", "effect": "NoSchedule"}]}}),
        ),
        &[
            "metadata.taints[0].effect: Unsupported value: \"Maybe\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            "metadata.taints[2]: Duplicate value: {\"Key\":\"b\",\"Value\":\"\",\"Effect\":\"NoSchedule\",\"TimeAdded\":null}: taints must be unique by key and effect pair",
        ],
    );
    check_update(
        "v1",
        "nodes",
        named(json!({"spec": {"podCIDR": "10.1.0.0/24"}})),
        named(json!({"spec": {"podCIDR": "10.0.0.0/24"}})),
        &["spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"],
    );
}

#[test]
fn rbac() {
    let g = "rbac.authorization.k8s.io/v1";
    check(
        g,
        "roles",
        named(
            json!({"rules": [{"verbs": ["get"], "resources": ["pods"]}, {"nonResourceURLs": ["/x"], "verbs": ["get"]}]}),
        ),
        &[
            "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
            "rules[1].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
        ],
    );
    check(
        g,
        "clusterroles",
        named(json!({"rules": [{"apiGroups": [""], "resources": ["pods"]}]})),
        &["rules[0].verbs: Required value: verbs must contain at least one value"],
    );
    let binding = |role: &str| {
        named(
            json!({"roleRef": {"kind": "ClusterRole", "name": role}, "subjects": [{"kind": "User", "name": "u"}]}),
        )
    };
    check(g, "clusterrolebindings", binding("view"), &[]);
    check(
        g,
        "clusterrolebindings",
        named(
            json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "ServiceAccount", "name": "s"}]}),
        ),
        &[
            "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
            "subjects[0].namespace: Required value",
        ],
    );
    check_update(
        g,
        "clusterrolebindings",
        binding("edit"),
        binding("view"),
        &[
            "roleRef: Invalid value: {\"APIGroup\":\"rbac.authorization.k8s.io\",\"Kind\":\"ClusterRole\",\"Name\":\"edit\"}: cannot change roleRef",
        ],
    );
}

#[test]
fn policy_and_networking() {
    check(
        "policy/v1",
        "poddisruptionbudgets",
        named(json!({"spec": {"minAvailable": "150%"}})),
        &["spec.minAvailable: Invalid value: \"150%\": must not be greater than 100%"],
    );
    let g = "networking.k8s.io/v1";
    check(
        g,
        "networkpolicies",
        named(json!({"spec": {"ingress": [{"from": [{}]}]}})),
        &["spec.ingress[0].from[0]: Required value: must specify a peer"],
    );
    check(
        g,
        "networkpolicies",
        named(
            json!({"spec": {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]}}),
        ),
        &[
            "spec.egress[0].to[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`: 10.0.0.0/8",
        ],
    );
    let np = defaulted(g, "networkpolicies", named(json!({"spec": {"egress": [{}]}})));
    assert_eq!(np["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    check(
        g,
        "ingresses",
        named(
            json!({"spec": {"rules": [{"http": {"paths": [{"path": "x", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}}]}}),
        ),
        &["spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path"],
    );
    check(
        "discovery.k8s.io/v1",
        "endpointslices",
        named(json!({"addressType": "IPv4", "endpoints": [{"addresses": ["127.0.0.1"]}]})),
        &[
            "endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ],
    );
}

#[test]
fn storage_and_limits() {
    check(
        "v1",
        "persistentvolumeclaims",
        named(json!({"spec": {}})),
        &[
            "spec.accessModes: Required value: at least 1 access mode is required",
            "spec.resources[storage]: Required value",
        ],
    );
    check(
        "v1",
        "persistentvolumes",
        named(json!({"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}}})),
        &["spec: Required value: must specify a volume type"],
    );
    check("storage.k8s.io/v1", "storageclasses", named(json!({})), &["provisioner: Required value"]);
    let lr = defaulted(
        "v1",
        "limitranges",
        json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}}]}}),
    );
    assert_eq!(lr["spec"]["limits"][0]["defaultRequest"], json!({"cpu": "1"}));
    check(
        "v1",
        "limitranges",
        json!({"spec": {"limits": [{"type": "Pod", "max": {"cpu": "1"}, "min": {"cpu": "2"}}]}}),
        &["spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1"],
    );
    check(
        "v1",
        "resourcequotas",
        json!({"spec": {"hard": {"pods": "1.5"}}}),
        &["spec.hard[pods]: Invalid value: \"1500m\": must be an integer"],
    );
}

#[test]
fn workloads() {
    let spec = |extra: Value| {
        let mut s = json!({"selector": {"matchLabels": {"a": "b"}}, "serviceName": "s",
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}});
        for (k, v) in extra.as_object().unwrap() {
            s[k] = v.clone();
        }
        named(json!({"spec": s}))
    };
    let claims = json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]});
    let mut sts = spec(claims);
    sts["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "data", "mountPath": "/d"}]);
    check("apps/v1", "statefulsets", sts, &[]);
    check_update(
        "apps/v1",
        "statefulsets",
        spec(json!({"serviceName": "t"})),
        spec(json!({})),
        &[
            "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        ],
    );
    check(
        "apps/v1",
        "daemonsets",
        spec(json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0}}})),
        &["spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0"],
    );
    check(
        "apps/v1",
        "replicasets",
        spec(json!({"replicas": -1})),
        &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
    );
    let rc = created(
        "v1",
        "replicationcontrollers",
        named(
            json!({"spec": {"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}}),
        ),
    );
    assert_eq!(rc["spec"]["selector"], json!({"a": "b"}));
}

#[test]
fn devices() {
    let g = "resource.k8s.io/v1";
    let claim = |request: Value| named(json!({"spec": {"devices": {"requests": [request]}}}));
    check(g, "resourceclaims", claim(json!({"name": "a", "exactly": {"deviceClassName": "c"}})), &[]);
    check(
        g,
        "resourceclaims",
        claim(json!({"name": "a"})),
        &[
            "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
        ],
    );
    check(
        g,
        "resourceclaims",
        claim(json!({"name": "a", "exactly": {"allocationMode": "All", "count": 2}})),
        &[
            "spec.devices.requests[0].exactly.deviceClassName: Required value",
            "spec.devices.requests[0].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'",
        ],
    );
    check(
        g,
        "resourceslices",
        json!({"spec": {"driver": "d", "pool": {"name": "p", "resourceSliceCount": 1}}}),
        &[
            "spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
        ],
    );
    let rule =
        created(g, "devicetaintrules", json!({"spec": {"taint": {"key": "k", "effect": "NoSchedule"}}}));
    assert_eq!(rule["spec"]["taint"]["timeAdded"], NOW);
}

#[test]
fn status_and_spec_are_parted() {
    let user = knarr_machinery::UserInfo::component("t", &[]);
    let old = named(json!({"spec": {"replicas": 1}, "status": {"replicas": 1}}));
    let new = named(json!({"spec": {"replicas": 2}, "status": {"replicas": 2}}));
    let rules = kind("apps/v1", "replicasets").rules;
    let mut main = new.clone();
    rules.prepare_update(&ctx(&user, None), &mut main, &old);
    assert_eq!((&main["spec"]["replicas"], &main["status"]["replicas"]), (&json!(2), &json!(1)));
    let mut status = new;
    rules.prepare_update(&ctx(&user, Some("status")), &mut status, &old);
    assert_eq!((&status["spec"]["replicas"], &status["status"]["replicas"]), (&json!(1), &json!(2)));
}

#[test]
fn certificate_approval() {
    let g = "certificates.k8s.io/v1";
    let user = knarr_machinery::UserInfo::component("t", &[]);
    let rules = kind(g, "certificatesigningrequests").rules;
    let old = created(
        g,
        "certificatesigningrequests",
        json!({"metadata": {"name": "c"}, "spec": {"signerName": "a.b/c", "username": "forged"}}),
    );
    assert_eq!(old["spec"]["username"], "tester");
    let mut approved = old.clone();
    approved["status"] = json!({"conditions": [{"type": "Approved", "status": "True"}]});
    let mut wrong = approved.clone();
    let mut other = old.clone();
    other["status"] =
        json!({"conditions": [{"type": "Reviewed", "status": "True"}], "certificate": "Zm9yZ2Vk"});
    rules.prepare_update(&ctx(&user, Some("approval")), &mut other, &old);
    assert_eq!(other["status"]["conditions"][0]["type"], "Reviewed", "approval keeps conditions of any type");
    assert!(other["status"]["certificate"].is_null(), "approval writes no certificate");
    rules.prepare_update(&ctx(&user, Some("approval")), &mut approved, &old);
    assert_eq!(approved["status"]["conditions"][0]["lastTransitionTime"], NOW);
    assert_eq!(rules.row(&approved, NOW)[5], "Approved");
    rules.prepare_update(&ctx(&user, Some("status")), &mut wrong, &old);
    assert!(wrong["status"].get("conditions").is_none_or(|c| c.as_array().unwrap().is_empty()), "{wrong}");
}

#[test]
fn events_share_one_form() {
    let rules = kind("events.k8s.io/v1", "events").rules;
    let doc = named(
        json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
        "note": "hello", "reason": "R", "type": "Normal", "eventTime": "2026-01-02T03:04:00.000000Z", "reportingController": "c", "reportingInstance": "i", "action": "a"}),
    );
    check("events.k8s.io/v1", "events", doc.clone(), &[]);
    let stored = rules.to_storage(doc.clone()).unwrap();
    assert_eq!(
        (&stored["apiVersion"], &stored["message"], &stored["involvedObject"]["name"]),
        (&json!("v1"), &json!("hello"), &json!("p"))
    );
    assert_eq!(rules.row(&doc, NOW), kind("v1", "events").rules.row(&stored, NOW));
    assert_eq!(rules.from_storage(stored).unwrap(), doc);
}

#[test]
fn core_events() {
    let involved = json!({"kind": "Pod", "name": "p", "namespace": "default"});
    check("v1", "events", named(json!({"involvedObject": involved})), &[]);
    check(
        "v1",
        "events",
        named(json!({"involvedObject": {"namespace": "other"}})),
        &["involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"],
    );
    check(
        "v1",
        "events",
        named(
            json!({"involvedObject": involved, "eventTime": "2026-01-02T03:04:00.000000Z", "reportingComponent": "c", "reportingInstance": "i", "reason": "r"}),
        ),
        &["action: Required value"],
    );
}

#[test]
fn warnings() {
    let user = knarr_machinery::UserInfo::component("t", &[]);
    let pod = named(
        json!({"spec": {"containers": [{"name": "c", "env": [{"name": "A"}, {"name": "A"}], "resources": {"limits": {"memory": "100m"}}}]}}),
    );
    let given = kind("v1", "pods").rules.warnings(&ctx(&user, None), &pod, None);
    assert_eq!(
        given,
        [
            "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
            "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
        ]
    );
}

#[test]
fn admission_and_extensions() {
    let g = "admissionregistration.k8s.io/v1";
    let hook = json!({"webhooks": [{"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 40,
        "clientConfig": {"url": "http://x"}, "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}]});
    check(
        g,
        "validatingwebhookconfigurations",
        hook,
        &[
            "webhooks[0].timeoutSeconds: Invalid value: 40: the timeout value must be at most 30 seconds",
            "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
        ],
    );
    let crd = json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    check("apiextensions.k8s.io/v1", "customresourcedefinitions", crd.clone(), &[]);
    let made = created("apiextensions.k8s.io/v1", "customresourcedefinitions", crd);
    assert_eq!(made["spec"]["names"]["listKind"], "WidgetList");
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
    check_sub(
        "v1",
        "namespaces",
        Some("finalize"),
        json!({"metadata": {"name": "x"}, "spec": {"finalizers": []}}),
        json!({"metadata": {"name": "x"}}),
        &[],
    );
}
