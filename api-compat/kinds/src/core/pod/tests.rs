use serde_json::{Value, json};

use crate::kind::DeletePlan;
use crate::testing::{NOW, check, check_sub, check_update, created, kind};

fn pod() -> Value {
    json!({"metadata": {"name": "p", "namespace": "default"}, "spec": {"containers": [{"name": "c", "image": "busybox:1"}]}})
}

fn with(pointer: &str, value: Value) -> Value {
    let mut p = pod();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    p.pointer_mut(parent).unwrap()[key] = value;
    p
}

#[test]
fn defaults() {
    let p = created("v1", "pods", with("/spec/containers/0/resources", json!({"limits": {"cpu": "0.5"}})));
    assert_eq!(
        p["spec"],
        json!({
            "containers": [{"name": "c", "image": "busybox:1", "imagePullPolicy": "IfNotPresent",
                "resources": {"limits": {"cpu": "500m"}, "requests": {"cpu": "500m"}},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
            "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always",
            "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30,
        })
    );
    assert_eq!(p["status"], json!({"phase": "Pending", "qosClass": "Burstable"}));
}

#[test]
fn errors_on_create() {
    let cases: &[(Value, &[&str])] = &[
        (pod(), &[]),
        (with("/spec/containers", json!([])), &["spec.containers: Required value"]),
        (
            with("/spec/containers/0/name", json!("A_b")),
            &[
                "spec.containers[0].name: Invalid value: \"A_b\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            ],
        ),
        (with("/spec/containers/0/image", json!("")), &["spec.containers[0].image: Required value"]),
        (
            with("/spec/restartPolicy", json!("Sometimes")),
            &[
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ],
        ),
        (
            with("/spec/containers/0/ports", json!([{"containerPort": 70000}])),
            &[
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            with(
                "/spec/containers/0/ports",
                json!([{"containerPort": 80, "hostPort": 80}, {"containerPort": 81, "hostPort": 80}]),
            ),
            &["spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//80\""],
        ),
        (
            with("/spec/containers/0/volumeMounts", json!([{"name": "v", "mountPath": "/x"}])),
            &["spec.containers[0].volumeMounts[0].name: Not found: \"v\""],
        ),
        (
            with("/spec/volumes", json!([{"name": "v", "emptyDir": {}, "hostPath": {"path": "/x"}}])),
            &["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"],
        ),
        (
            with("/spec/containers/0/env", json!([{"name": "A", "valueFrom": {}}])),
            &[
                "spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            ],
        ),
        (
            with("/spec/containers/0/resources", json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}})),
            &[
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ],
        ),
        (
            with(
                "/spec/containers/0/livenessProbe",
                json!({"httpGet": {"port": 0}, "tcpSocket": {"port": 1}}),
            ),
            &[
                "spec.containers[0].livenessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
            ],
        ),
        (
            with("/spec/tolerations", json!([{"operator": "Equal"}])),
            &[
                "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ],
        ),
        (
            with(
                "/spec/initContainers",
                json!([{"name": "c", "image": "i:1", "readinessProbe": {"exec": {"command": ["x"]}}}]),
            ),
            &[
                "spec.initContainers[0].name: Duplicate value: \"c\"",
                "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
            ],
        ),
    ];
    for (obj, expected) in cases {
        check("v1", "pods", obj.clone(), expected);
    }
}

#[test]
fn updates() {
    check_update("v1", "pods", with("/spec/containers/0/image", json!("busybox:2")), pod(), &[]);
    check_update(
        "v1",
        "pods",
        with("/spec/hostname", json!("h")),
        pod(),
        &[
            "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n- hostname: null\n+ hostname: \"h\"",
        ],
    );
    check_update(
        "v1",
        "pods",
        with("/spec/containers", json!([{"name": "a", "image": "b"}, {"name": "c", "image": "d"}])),
        pod(),
        &["spec.containers: Forbidden: pod updates may not add or remove containers"],
    );
    check_sub(
        "v1",
        "pods",
        Some("ephemeralcontainers"),
        with("/spec/ephemeralContainers", json!([{"name": "d", "image": "i:1"}])),
        pod(),
        &[],
    );
    check_sub(
        "v1",
        "pods",
        Some("resize"),
        with("/spec/containers/0/resources", json!({"requests": {"cpu": "1"}})),
        pod(),
        &["spec: Invalid value: \"BestEffort\": Pod QOS Class may not change as a result of resizing"],
    );
}

#[test]
fn label_keys_join_the_selector() {
    let mut p = with(
        "/spec/topologySpreadConstraints",
        json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {}, "matchLabelKeys": ["rev", "none"]}]),
    );
    p["metadata"]["labels"] = json!({"rev": "1"});
    let p = created("v1", "pods", p);
    assert_eq!(
        p["spec"]["topologySpreadConstraints"][0]["labelSelector"],
        json!({"matchExpressions": [{"key": "rev", "operator": "In", "values": ["1"]}]})
    );
}

#[test]
fn delete_plans() {
    let rules = kind("v1", "pods").rules;
    let scheduled = with("/spec/nodeName", json!("n"));
    let mut ended = scheduled.clone();
    ended["status"] = json!({"phase": "Succeeded"});
    for (obj, requested, expected) in [
        (pod(), None, DeletePlan::Now),
        (scheduled.clone(), None, DeletePlan::Graceful(30)),
        (scheduled.clone(), Some(5), DeletePlan::Graceful(5)),
        (scheduled.clone(), Some(0), DeletePlan::Now),
        (scheduled, Some(-1), DeletePlan::Graceful(1)),
        (ended, None, DeletePlan::Now),
    ] {
        assert_eq!(rules.delete_plan(&obj, requested), expected, "{obj} {requested:?}");
    }
}

#[test]
fn rows() {
    let rules = kind("v1", "pods").rules;
    let mut p = created("v1", "pods", pod());
    p["metadata"]["creationTimestamp"] = "2026-01-02T03:03:05Z".into();
    assert_eq!(
        rules.row(&p, NOW)[..5],
        [json!("p"), json!("0/1"), json!("Pending"), json!("0"), json!("60s")]
    );
    p["status"] = json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "containerStatuses": [{"name": "c", "ready": true,
        "restartCount": 2, "state": {"running": {}}, "lastState": {"terminated": {"finishedAt": "2026-01-02T03:00:05Z"}}}]});
    assert_eq!(
        rules.row(&p, NOW)[1..6],
        [json!("1/1"), json!("Running"), json!("2 (4m ago)"), json!("60s"), json!("10.0.0.1")]
    );
    p["status"]["containerStatuses"][0] =
        json!({"name": "c", "restartCount": 0, "state": {"waiting": {"reason": "ErrImagePull"}}});
    assert_eq!(rules.row(&p, NOW)[2], "ErrImagePull");
    p["metadata"]["deletionTimestamp"] = NOW.into();
    assert_eq!(rules.row(&p, NOW)[2], "Terminating");
}
