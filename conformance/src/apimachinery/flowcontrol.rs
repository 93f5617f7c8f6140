//! Upstream's flowcontrol.go.

use serde_json::json;

use super::battery::Battery;
use crate::Result;
use crate::context::Context;
use crate::kinds::{FLOW_SCHEMAS, PRIORITY_LEVELS};

tests! {
    "[sig-api-machinery] API priority and fairness should support FlowSchema API operations" => flow_schema,
    "[sig-api-machinery] API priority and fairness should support PriorityLevelConfiguration API operations" => priority_level,
}

async fn flow_schema(cx: Context) -> Result<()> {
    let rule = json!({
        "subjects": [{"kind": "User", "user": {"name": "example-e2e-non-existent-user"}}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    });
    let battery = Battery {
        kind: &FLOW_SCHEMAS,
        resources: &["flowschemas", "flowschemas/status"],
        template: json!({"spec": {
            "matchingPrecedence": 10000,
            "priorityLevelConfiguration": {"name": "global-default"},
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [rule],
        }}),
        patch: json!({"spec": {"matchingPrecedence": 9999}}),
        update: |o| o["spec"]["matchingPrecedence"] = json!(9998),
        pointer: "/spec/matchingPrecedence",
    };
    let run = battery.begin(&cx).await?;
    run.status().await?;
    run.finish().await
}

async fn priority_level(cx: Context) -> Result<()> {
    let battery = Battery {
        kind: &PRIORITY_LEVELS,
        resources: &["prioritylevelconfigurations", "prioritylevelconfigurations/status"],
        template: json!({"spec": {
            "type": "Limited",
            "limited": {"nominalConcurrencyShares": 2, "limitResponse": {"type": "Reject"}},
        }}),
        patch: json!({"spec": {"limited": {"nominalConcurrencyShares": 4}}}),
        update: |o| o["spec"]["limited"]["nominalConcurrencyShares"] = json!(12),
        pointer: "/spec/limited/nominalConcurrencyShares",
    };
    let run = battery.begin(&cx).await?;
    run.status().await?;
    run.finish().await
}
