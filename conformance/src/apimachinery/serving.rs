//! A webhook server in the cluster: certificate, Deployment, Service.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::Result;
use crate::auth::pki::{Authority, serving};
use crate::context::{Context, POD_START};
use crate::images::AGNHOST;
use crate::kinds::{DEPLOYMENTS, ENDPOINTS, ROLE_BINDINGS, SECRETS, SERVICES};

/// Where the server is reached.
pub(super) struct Server {
    /// The certificates that vouch for it, in base64.
    pub bundle: String,
    service: &'static str,
    port: u16,
    namespace: String,
}

impl Server {
    /// A clientConfig for a path of it.
    pub(super) fn client(&self, path: &str) -> Value {
        json!({
            "caBundle": self.bundle,
            "service": {"namespace": self.namespace, "name": self.service, "path": path, "port": self.port},
        })
    }
}

/// The admission webhooks.
pub(super) async fn admission(cx: &Context) -> Result<Server> {
    deploy(cx, "webhook", "e2e-test-webhook", 8443, 8444).await
}

/// The conversion webhook.
pub(super) async fn conversion(cx: &Context) -> Result<Server> {
    deploy(cx, "crd-conversion-webhook", "e2e-test-crd-conversion-webhook", 9443, 9444).await
}

async fn deploy(
    cx: &Context,
    command: &str,
    service: &'static str,
    port: u16,
    target: u16,
) -> Result<Server> {
    let namespace = cx.namespace().to_string();
    let authority = Authority::new("e2e-server-cert-ca")?;
    let (cert, key) = serving(&authority, service, &namespace)?;
    let data = json!({"tls.crt": STANDARD.encode(cert), "tls.key": STANDARD.encode(key)});
    cx.create(&SECRETS, &json!({"metadata": {"name": service}, "type": "Opaque", "data": data})).await?;
    reader(cx).await?;
    let dir = "/webhook.local.config/certificates";
    let args = [
        command.to_string(),
        format!("--tls-cert-file={dir}/tls.crt"),
        format!("--tls-private-key-file={dir}/tls.key"),
        "--alsologtostderr".to_string(),
        "-v=4".to_string(),
        format!("--port={target}"),
    ];
    let labels = json!({"app": service, "webhook": "true"});
    let deployment = json!({
        "metadata": {"name": service, "labels": labels},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "sample-webhook", "image": AGNHOST, "args": args, "ports": [{"containerPort": target}],
                    "readinessProbe": {
                        "httpGet": {"scheme": "HTTPS", "port": target, "path": "/readyz"},
                        "periodSeconds": 1, "successThreshold": 1, "failureThreshold": 30,
                    },
                    "volumeMounts": [{"name": "webhook-certs", "readOnly": true, "mountPath": dir}],
                }],
                "volumes": [{"name": "webhook-certs", "secret": {"secretName": service}}],
            },
        }},
    });
    cx.create(&DEPLOYMENTS, &deployment).await?;
    let body = json!({
        "metadata": {"name": service, "labels": {"test": "webhook"}},
        "spec": {"selector": {"app": service}, "ports": [{"protocol": "TCP", "port": port, "targetPort": target}]},
    });
    cx.create(&SERVICES, &body).await?;
    let there = |e: Option<&Value>| Ok(e.is_some_and(|e| !e["subsets"][0]["addresses"].is_null()));
    cx.api(&ENDPOINTS).wait(service, POD_START, "the webhook is an endpoint", there).await?;
    Ok(Server { bundle: STANDARD.encode(&authority.pem), service, port, namespace })
}

/// The server may read how the API server identifies itself.
async fn reader(cx: &Context) -> Result<()> {
    let name = format!("webhook-auth-reader-{}", cx.namespace());
    let binding = json!({
        "metadata": {"name": name, "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "extension-apiserver-authentication-reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": cx.namespace()}],
    });
    let api = cx.api_in(&ROLE_BINDINGS, "kube-system");
    api.create(&binding).await?;
    cx.cleanup(&api, &name);
    Ok(())
}
