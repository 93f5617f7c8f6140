//! Upstream: `test/e2e/network/ingress.go` and `ingressclass.go`, the tests of the API.

use serde_json::json;

use crate::Result;
use crate::battery::operations;
use crate::context::Context;
use crate::kinds::{INGRESS_CLASSES, INGRESSES};

tests! {
    "[sig-network] Ingress API should support creating Ingress API operations" => ingress,
    "[sig-network] IngressClass API should support creating IngressClass API operations" => class,
}

async fn ingress(c: Context) -> Result<()> {
    let backend = json!({"service": {"name": "default-backend", "port": {"number": 80}}});
    let body = json!({
        "metadata": {},
        "spec": {
            "defaultBackend": backend,
            "rules": [{"host": "foo.bar.com", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}],
        },
    });
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "169.1.1.1"}]}}});
    operations(&c, &INGRESSES, body, Some(status)).await
}

async fn class(c: Context) -> Result<()> {
    operations(
        &c,
        &INGRESS_CLASSES,
        json!({"metadata": {}, "spec": {"controller": "example.com/controller"}}),
        None,
    )
    .await
}
