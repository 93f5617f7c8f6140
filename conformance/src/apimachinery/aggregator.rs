//! Upstream's aggregator.go.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};

use crate::Result;
use crate::api::{Api, Kind, Patch, array, condition, text};
use crate::auth::pki::{Authority, serving};
use crate::context::{Context, POD_START, random};
use crate::images::{ETCD, SAMPLE_APISERVER};
use crate::kinds::{
    API_SERVICES, CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, DEPLOYMENTS, ROLE_BINDINGS, SECRETS, SERVICES,
};

tests! {
    "[sig-api-machinery] Aggregator Should be able to support the 1.17 Sample API Server using the current Aggregator [LinuxOnly]" => sample,
}

const GROUP: &str = "wardle.example.com";

fn flunders() -> Kind {
    Kind::custom(GROUP, "v1alpha1", "flunders", "Flunder", true)
}

/// Serves the sample API: its certificate, its pod with an etcd, its Service.
async fn deploy(cx: &Context) -> Result<String> {
    let authority = Authority::new("e2e-sample-apiserver-ca")?;
    let (cert, key) = serving(&authority, "sample-api", cx.namespace())?;
    let data = json!({"tls.crt": STANDARD.encode(cert), "tls.key": STANDARD.encode(key)});
    let secret = json!({"metadata": {"name": "sample-apiserver-secret"}, "type": "Opaque", "data": data});
    cx.create(&SECRETS, &secret).await?;
    permissions(cx).await?;
    let dir = "/apiserver.local.config/certificates";
    let args = [
        "--etcd-servers=http://localhost:2379".to_string(),
        format!("--tls-cert-file={dir}/tls.crt"),
        format!("--tls-private-key-file={dir}/tls.key"),
        "--audit-log-path=-".to_string(),
        "--audit-log-maxage=0".to_string(),
        "--audit-log-maxbackup=0".to_string(),
    ];
    let etcd = [
        "/usr/local/bin/etcd",
        "--listen-client-urls",
        "http://127.0.0.1:2379",
        "--advertise-client-urls",
        "http://127.0.0.1:2379",
    ];
    let labels = json!({"app": "sample-apiserver", "apiserver": "true"});
    let deployment = json!({
        "metadata": {"name": "sample-apiserver-deployment", "labels": labels},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [
                    {"name": "sample-apiserver", "image": SAMPLE_APISERVER, "args": args,
                     "volumeMounts": [{"name": "apiserver-certs", "readOnly": true, "mountPath": dir}]},
                    {"name": "etcd", "image": ETCD, "command": etcd},
                ],
                "volumes": [{"name": "apiserver-certs", "secret": {"secretName": "sample-apiserver-secret"}}],
            },
        }},
    });
    cx.create(&DEPLOYMENTS, &deployment).await?;
    let service = json!({
        "metadata": {"name": "sample-api", "labels": {"test": "aggregator"}},
        "spec": {"selector": {"apiserver": "true"}, "ports": [{"protocol": "TCP", "port": 7443, "targetPort": 443}]},
    });
    cx.create(&SERVICES, &service).await?;
    let up = |d: Option<&Value>| Ok(d.is_some_and(|d| d["status"]["availableReplicas"] == 1));
    let name = "sample-apiserver-deployment";
    cx.api(&DEPLOYMENTS).wait(name, POD_START, "the sample API server is available", up).await?;
    Ok(STANDARD.encode(&authority.pem))
}

/// What the sample API server may ask of the cluster.
async fn permissions(cx: &Context) -> Result<()> {
    let ns = cx.namespace();
    let subject = json!([{"kind": "ServiceAccount", "name": "default", "namespace": ns}]);
    let delegator = json!({
        "metadata": {"name": format!("wardler:{ns}:auth-delegator")},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:auth-delegator"},
        "subjects": subject,
    });
    cx.create(&CLUSTER_ROLE_BINDINGS, &delegator).await?;
    let role = json!({
        "metadata": {"name": format!("sample-apiserver-reader-{ns}")},
        "rules": [
            {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": ["admissionregistration.k8s.io"], "resources": ["*"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": ["flowcontrol.apiserver.k8s.io"],
             "resources": ["prioritylevelconfigurations", "flowschemas"], "verbs": ["get", "list", "watch"]},
        ],
    });
    cx.create(&CLUSTER_ROLES, &role).await?;
    let binding = json!({
        "metadata": {"name": format!("wardler:{ns}:sample-apiserver-reader")},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role["metadata"]["name"]},
        "subjects": subject,
    });
    cx.create(&CLUSTER_ROLE_BINDINGS, &binding).await?;
    let name = format!("wardler-auth-reader-{ns}");
    let reader = json!({
        "metadata": {"name": name, "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "extension-apiserver-authentication-reader"},
        "subjects": subject,
    });
    let bindings = cx.api_in(&ROLE_BINDINGS, "kube-system");
    bindings.create(&reader).await?;
    cx.cleanup(&bindings, &name);
    Ok(())
}

async fn sample(cx: Context) -> Result<()> {
    let bundle = deploy(&cx).await?;
    let name = format!("v1alpha1.{GROUP}");
    let service = json!({
        "metadata": {"name": name, "labels": {"e2e-aggregator": cx.namespace()}},
        "spec": {
            "service": {"namespace": cx.namespace(), "name": "sample-api", "port": 7443},
            "group": GROUP, "version": "v1alpha1", "caBundle": bundle,
            "groupPriorityMinimum": 2000, "versionPriority": 200,
        },
    });
    cx.create(&API_SERVICES, &service).await?;
    let api = cx.api(&flunders());
    let what = "the aggregated API answers";
    crate::watch::poll(Duration::from_secs(120), Duration::from_millis(500), what, || async {
        api.list(&[]).await.map(Some)
    })
    .await?;
    crud(&cx, &api).await?;
    api_service(&cx, &name).await?;
    discovered(&cx).await?;
    let services = cx.api(&API_SERVICES);
    let selector = format!("e2e-aggregator={}", cx.namespace());
    services.delete_collection(&[("labelSelector", &selector)]).await?;
    services.wait_gone(&name, Duration::from_secs(30)).await
}

/// Flunders are created, listed and deleted through the aggregator.
async fn crud(cx: &Context, api: &Api) -> Result<()> {
    let name = format!("rest-flunder-{}", random(6));
    let body = flunders().document(json!({
        "metadata": {"name": name, "labels": {"sample-label": "true"}}, "spec": {}, "status": {},
    }));
    let headers = [("content-type", "application/json"), ("accept", "application/json")];
    let reply = cx.rest().raw(Method::POST, &api.path(), &headers, body.to_string().into_bytes()).await?;
    ensure_eq!(reply.code, 201, "status of the creation: {}", reply.text());
    ensure_eq!(api.items(&[]).await?.len(), 1, "flunders");
    let patched = api.patch(&name, Patch::Merge(json!({"metadata": {"labels": {"patched": "yes"}}}))).await?;
    ensure_eq!(text(&patched, "/metadata/labels/patched"), "yes", "label of the patched flunder");
    api.delete(&name).await?;
    ensure_eq!(api.items(&[]).await?.len(), 0, "flunders after the deletion");
    Ok(())
}

/// The APIService says that it is available; its status can be read, patched and replaced.
async fn api_service(cx: &Context, name: &str) -> Result<()> {
    let services = cx.api(&API_SERVICES);
    let up = |s: Option<&Value>| Ok(s.is_some_and(|s| condition(s, "Available")["status"] == "True"));
    services.wait(name, Duration::from_secs(60), "Available", up).await?;
    let path = format!("{name}/status");
    let seen = services.get(&path).await?;
    ensure_eq!(text(&seen, "/metadata/name"), name, "name in /status");
    let one = |kind: &str| {
        json!({"type": kind, "status": "True", "reason": "E2E", "message": "Set from e2e test",
               "lastTransitionTime": "2026-01-02T03:04:05Z"})
    };
    let added = one("StatusUpdated");
    let updated = services
        .modify_at(name, "status", |s| {
            if let Some(all) = s["status"]["conditions"].as_array_mut() {
                all.push(added.clone());
            }
        })
        .await?;
    ensure_eq!(text(condition(&updated, "StatusUpdated"), "/reason"), "E2E", "condition of the update");
    let patch = json!({"metadata": {"labels": {"apiservice": "patched"}}});
    let patched = services.patch(name, Patch::Merge(patch)).await?;
    ensure_eq!(text(&patched, "/metadata/labels/apiservice"), "patched", "label of the patch");
    let replaced =
        services.modify(name, |s| s["metadata"]["labels"]["apiservice"] = json!("updated")).await?;
    ensure_eq!(text(&replaced, "/metadata/labels/apiservice"), "updated", "label of the update");
    let patch = json!({"status": {"conditions": [one("StatusPatched")]}});
    let patched = services.patch(&path, Patch::Merge(patch)).await?;
    ensure_eq!(text(condition(&patched, "StatusPatched"), "/reason"), "E2E", "condition of the patch");
    Ok(())
}

/// The group is in the discovery documents.
async fn discovered(cx: &Context) -> Result<()> {
    let limit = Duration::from_secs(60);
    crate::watch::poll(limit, Duration::from_secs(1), "the aggregated group is discovered", || async {
        let groups = cx.rest().get("/apis").await?;
        let listed = array(&groups, "/groups").iter().any(|g| g["name"] == GROUP);
        anyhow::ensure!(listed, "/apis does not list {GROUP}");
        let resources = cx.rest().get(&flunders().root()).await?;
        let listed = array(&resources, "/resources").iter().any(|r| r["name"] == "flunders");
        anyhow::ensure!(listed, "{} does not list flunders", flunders().root());
        Ok(Some(()))
    })
    .await
}
