//! Upstream: `test/e2e/dra/dra.go`, the tests of the API's verbs.

use serde_json::{Value, json};

use crate::Result;
use crate::api::Kind;
use crate::battery::strict;
use crate::context::Context;
use crate::kinds::{
    DEVICE_CLASSES, DEVICE_TAINT_RULES, RESOURCE_CLAIM_TEMPLATES, RESOURCE_CLAIMS, RESOURCE_SLICES,
};

tests! {
    "[sig-node] [DRA] CRUD Tests resource.k8s.io/v1 DeviceClass" => |c| crud(c, DEVICE_CLASSES, class(), None),
    "[sig-node] [DRA] CRUD Tests resource.k8s.io/v1 DeviceTaintRule" => |c| crud(c, DEVICE_TAINT_RULES, rule(), Some(rule_status())),
    "[sig-node] [DRA] CRUD Tests resource.k8s.io/v1 ResourceClaim" => |c| crud(c, RESOURCE_CLAIMS, claim(), Some(claim_status())),
    "[sig-node] [DRA] CRUD Tests resource.k8s.io/v1 ResourceClaimTemplate" => |c| crud(c, RESOURCE_CLAIM_TEMPLATES, template(), None),
    "[sig-node] [DRA] CRUD Tests resource.k8s.io/v1 ResourceSlice" => |c| crud(c, RESOURCE_SLICES, slice(), None),
}

async fn crud(c: Context, kind: Kind, body: Value, status: Option<Value>) -> Result<()> {
    strict(&c, &kind, body, status).await
}

fn class() -> Value {
    json!({"metadata": {}, "spec": {"selectors": [{"cel": {"expression": "device.driver == \"dra.example.com\""}}]}})
}

fn rule() -> Value {
    let taint = json!({"key": "example.com/e2e", "value": "tainted", "effect": "NoSchedule"});
    json!({"metadata": {}, "spec": {"deviceSelector": {"driver": "dra.example.com", "pool": "no-such-pool"}, "taint": taint}})
}

fn rule_status() -> Value {
    let condition = json!({
        "type": "EvictionInProgress", "status": "False", "reason": "E2E", "message": "set by a test",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    json!({"status": {"conditions": [condition]}})
}

fn claim_spec() -> Value {
    json!({"devices": {"requests": [{"name": "req-0", "exactly": {
        "deviceClassName": "e2e-no-such-class", "allocationMode": "ExactCount", "count": 1}}]}})
}

fn claim() -> Value {
    json!({"metadata": {}, "spec": claim_spec()})
}

fn claim_status() -> Value {
    let result =
        json!({"request": "req-0", "driver": "dra.example.com", "pool": "pool", "device": "device-0"});
    json!({"status": {"allocation": {"devices": {"results": [result]}}}})
}

fn template() -> Value {
    json!({"metadata": {}, "spec": {"spec": claim_spec()}})
}

fn slice() -> Value {
    json!({"metadata": {}, "spec": {
        "driver": "dra.example.com",
        "nodeName": "e2e-no-such-node",
        "pool": {"name": "e2e-pool", "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": "device-0"}],
    }})
}
