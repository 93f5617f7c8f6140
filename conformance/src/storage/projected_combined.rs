//! Upstream: `test/e2e/common/storage/projected_combined.go`.

use serde_json::json;

use super::keyed::Flavour::{ConfigMap, Secret};
use crate::Result;
use crate::context::Context;
use crate::images::AGNHOST;
use crate::kinds::{CONFIG_MAPS, SECRETS};
use crate::pods::{pod, shell};

tests! {
    "[sig-storage] Projected combined should project all components that make up the projection API [Projection]" => combined,
}

async fn combined(c: Context) -> Result<()> {
    let map = c.unique("configmap-projected-all-test-volume");
    let secret = c.unique("secret-projected-all-test-volume");
    c.create(&CONFIG_MAPS, &ConfigMap.object(&map, &[("configmap-data", "configmap-value-1")])).await?;
    c.create(&SECRETS, &Secret.object(&secret, &[("secret-data", "secret-value-1")])).await?;
    let name = c.unique("projected-volume");
    let line = "cat /all/podname && cat /all/secret-data && cat /all/configmap-data";
    let mut reader = shell("projected-all-volume-test", AGNHOST, line);
    reader["volumeMounts"] = json!([{"name": "podinfo", "mountPath": "/all"}]);
    let mut pod = pod(&name, json!([reader]));
    pod["spec"]["volumes"] = json!([{"name": "podinfo", "projected": {"sources": [
        {"downwardAPI": {"items": [{"path": "podname", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        {"secret": {"name": secret}},
        {"configMap": {"name": map}},
    ]}}]);
    c.output_has(&pod, "projected-all-volume-test", &[&name, "secret-value-1", "configmap-value-1"]).await
}
