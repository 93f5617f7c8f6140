//! Upstream's clustertrustbundle.go: the API.

use serde_json::{Value, json};

use super::pki::Authority;
use crate::Result;
use crate::apimachinery::strict::{Resource, test_resource};
use crate::context::Context;
use crate::kinds::TRUST_BUNDLES;

tests! {
    "[sig-auth] ClusterTrustBundle CRUD Tests certificates.k8s.io/v1 ClusterTrustBundles [MinimumKubeletVersion:1.37]" => crud,
}

async fn crud(cx: Context) -> Result<()> {
    let first = Authority::new("root1")?.pem;
    let second = Authority::new("root2")?.pem;
    let tested = Resource {
        kind: &TRUST_BUNDLES,
        object: json!({"metadata": {"name": format!("test-{}", cx.namespace())}, "spec": {"trustBundle": first}}),
        patch: json!({"spec": {"trustBundle": second}}),
        status: Value::Null,
    };
    test_resource(&cx, &tested).await
}
